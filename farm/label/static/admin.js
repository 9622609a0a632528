// The admin page: looks every few seconds whether labels came in, and then loads itself anew, open details kept open.
"use strict";
(() => {
  const kept = "farm-admin-open";
  const details = [...document.querySelectorAll("details")];
  const name = (d) => d.querySelector("summary").textContent;
  const open = new Set(JSON.parse(sessionStorage.getItem(kept) || "[]"));
  for (const d of details) d.open = open.has(name(d));

  async function look() {
    if (!document.hidden) {
      try {
        const answer = await fetch("count", { cache: "no-store" });
        const { acts } = await answer.json();
        if (answer.ok && acts !== Number(document.body.dataset.acts)) {
          sessionStorage.setItem(kept, JSON.stringify(details.filter((d) => d.open).map(name)));
          return location.reload();
        }
        document.getElementById("fresh").textContent = "up to date";
      } catch {
        document.getElementById("fresh").textContent = "no connection to the server";
      }
    }
    setTimeout(look, 5000);
  }
  setTimeout(look, 5000);
})();
