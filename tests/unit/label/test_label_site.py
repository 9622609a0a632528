"""The labelling site over HTTP: blind, closed to others, strict about what it takes, and exact about what it stores."""

from __future__ import annotations

import http.client
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hostile import HOSTILE
from studies import POLICIES, POOL, label_all, opened, served, study

from farm.errors import DataError
from farm.label import serve
from farm.label.store import Store

STATIC = Path(serve.__file__).parent / "static"
TEMPLATES = STATIC.parent / "templates"
FILES = [p.name for p in STATIC.iterdir()]


def vote(site, name="ann", choice="left", **more):
    now = site.task(name)["now"]
    return {"task": now["task"], "turn": now["turn"], "choice": choice, "seconds": 4, **more}


# -- blind ------------------------------------------------------------------------------------------------------------


def test_nothing_an_annotator_gets_names_a_policy_an_id_or_a_judge(site):
    seen = b"".join(site.call("ann", path)[1] for path in ("", "task", *FILES))
    for _ in range(24):
        status, body, headers = site.call("ann", "act", vote(site))
        assert status == 200
        seen += body + json.dumps([*headers.values()]).encode()
    store = site.store
    secrets = [*POLICIES, POOL, "policy", "reference", "secret", "ann", "bob"]
    secrets += [p.id for p in store.pairs(known=False)]
    secrets += [*store.instructions(), *store.responses(), *site.tokens.values()]
    for secret in secrets:
        assert not re.search(rb"\b%s\b" % re.escape(secret.encode()), seen), secret


def test_replies_do_not_depend_on_who_wrote_what(tmp_path):
    """The same texts with the policies' names exchanged give the same bytes, headers and order."""
    found = study(6)
    other = {"secret-ppo-model": "x", "secret-dpo-model": "a-much-longer-name", "reference": "y"}
    renamed = {i: r.model_copy(update={"policy": other[r.policy]}) for i, r in found.responses.items()}
    replies = []
    for k, one in enumerate((found, replace(found, responses=renamed, judgements=[]))):
        store = opened(tmp_path / f"{k}.sqlite", one, ("ann",), repeats=2)
        rows = []
        with served(store) as site:
            for choice in ["left", "right", "tie", "skip"] * 3 + ["left"] * 2:
                _, body, headers = site.call("ann", "act", vote(site, choice=choice))
                rows.append((json.loads(body), len(body), {k: v for k, v in headers.items() if k != "date"}))
        replies.append(rows)
        store.close()
    assert replies[0] == replies[1]


def test_checks_and_repeats_look_like_any_other_pair(tmp_path):
    store = opened(tmp_path / "s", study(10), ("ann",), known=3, repeats=3)
    with served(store) as site:
        shapes = set()
        for _ in range(26):
            sheet = site.task("ann")
            shapes.add((frozenset(sheet), frozenset(sheet["now"]), type(sheet["now"]["turn"])))
            shapes.add(("id", len(sheet["now"]["task"])))
            assert site.act("ann", vote(site))[0] == 200
        assert len(shapes) == 2
        assert site.task("ann")["now"] is None


def test_each_policy_is_on_either_side_equally_often(tmp_path):
    store = opened(tmp_path / "s", study(150), ("ann",))
    responses = store.responses()
    left = dict.fromkeys(POLICIES, 0)

    def count(task, first, _):
        if responses[task.first].policy in left:
            left[responses[task.first].policy] += 1
        return "tie"

    label_all(store, "ann", count)
    assert all(0.4 < n / 150 < 0.6 for n in left.values())


# -- closed -----------------------------------------------------------------------------------------------------------

EVERY = [("GET", ""), ("GET", "task"), ("GET", "label.js"), ("GET", "count"), ("POST", "act")]


@pytest.mark.parametrize(("method", "path"), EVERY)
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "0.0.0.0", "", "[::2]:1"]
)
def test_another_host_is_refused_everywhere(site, method, path, host):
    body = {} if method == "POST" else None
    status, answer, _ = site.call("ann", path, body, Host=host, Origin=f"http://{host}")
    assert status in (400, 403)
    assert b"instruction" not in answer


@pytest.mark.parametrize(("method", "path"), EVERY)
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1", ""])
def test_another_origin_is_refused_everywhere(site, method, path, origin):
    status, answer, _ = site.call("ann", path, vote(site) if method == "POST" else None, Origin=origin)
    assert status == 403
    assert json.loads(answer)["error"]
    assert site.store.count() == 0


@pytest.mark.parametrize(("method", "path"), EVERY)
@pytest.mark.parametrize("token", ["", "x", "0" * 32, "..", "%2e%2e", "%00", "%C3%A4"])
def test_a_wrong_token_is_refused_everywhere(site, method, path, token):
    status, answer, _ = site.call("ann", path, {} if method == "POST" else None, token=token)
    assert status in (400, 403)
    assert b"instruction" not in answer


def test_what_changes_something_must_say_where_it_comes_from(site):
    assert site.call("ann", "act", vote(site), Origin=None)[0] == 403
    for value in ("cross-site", "same-site", "none"):
        assert site.call("ann", "act", vote(site), Sec_Fetch_Site=value)[0] == 403
    assert site.store.count() == 0
    assert site.call("ann", "act", vote(site), Sec_Fetch_Site="same-origin")[0] == 200


def test_another_page_cannot_embed_or_read_but_a_link_may_be_followed(site):
    assert site.call("ann", "label.js", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403
    assert site.call("ann", "", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200


def test_one_annotator_cannot_act_for_another_nor_see_the_figures(site):
    theirs = vote(site, "bob")
    assert site.act("ann", theirs)[0] == 409
    assert site.call("ann", "count")[0] == 403
    assert site.call("(admin)", "task")[0] == 403
    assert site.act("(admin)", theirs)[0] == 403
    assert site.store.count() == 0


@pytest.mark.parametrize(
    "path", ["", "task", "label.js", "nothing", "../../etc/passwd", "store.py", ".key", "labels.css"]
)
def test_every_reply_carries_the_headers_that_close_it(site, path):
    _, _, headers = site.call("ann", path)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "python" not in headers["server"].lower()
    assert not any("access-control" in name for name in headers)


def test_only_what_belongs_to_the_page_is_served(site):
    for name in FILES:
        assert site.call("ann", name)[0] == 200
    for path in ("nothing", "serve.py", "..%2fserve.py", "%2e%2e/serve.py", "templates/label.html.j2", "a.js", "x.css"):
        assert site.call("ann", path)[0] in (403, 404)


@pytest.mark.parametrize("path", [*STATIC.iterdir(), *TEMPLATES.iterdir()], ids=lambda p: p.name)
def test_pages_ask_nobody_else_and_write_no_markup(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|DOMParser", text)
    assert not re.search(r"<script(?! src=)|<style|\son\w+=|style=|\|\s*safe", text)


def test_it_binds_to_this_machine_only(store):
    for host in ("0.0.0.0", "::", "192.168.1.1", "example.org"):
        with pytest.raises(DataError, match="this machine only"):
            serve.run(store, lambda _: {}, host)


# -- strict -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"task": 3},
        {"task": None},
        {"turn": "0"},
        {"turn": True},
        {"turn": -1},
        {"turn": 10**30},
        {"choice": "first"},
        {"choice": None},
        {"choice": ["left"]},
        {"strength": 0},
        {"strength": 4},
        {"strength": "2"},
        {"strength": True},
        {"choice": "tie", "strength": 1},
        {"reason": "because"},
        {"choice": "skip", "reason": "x" * 501},
        {"choice": "skip", "reason": 3},
        {"seconds": -1},
        {"seconds": 1e9},
        {"seconds": float("nan")},
        {"seconds": "3"},
        {"annotator": "bob"},
        {"winner": "r1"},
    ],
)
def test_a_body_that_is_not_quite_right_is_refused(site, change):
    status, answer = site.act("ann", vote(site) | change)
    assert status == 400
    assert answer["error"]
    assert site.store.count() == 0


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 10_000, b"[]", b'"x"', b"null"])
def test_a_body_that_is_not_json_is_refused(site, raw):
    assert site.call("ann", "act", raw=raw)[0] == 400


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_a_body_of_another_type_is_refused(site, kind):
    assert site.call("ann", "act", vote(site), Content_Type=kind)[0] == 415


def test_a_body_over_the_limit_is_refused_declared_or_not(site):
    large = json.dumps(vote(site) | {"choice": "skip", "reason": "x" * serve.LONGEST_BODY}).encode()
    assert site.call("ann", "act", raw=large)[0] == 413
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)
    host = f"127.0.0.1:{site.port}"
    headers = {"Host": host, "Origin": f"http://{host}", "Content-Type": "application/json"}
    connection.request("POST", site.path("ann", "act"), iter([large]), headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    assert site.store.count() == 0


def test_other_methods_are_refused(site):
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
        assert site.call("ann", "act", method=method, Origin=f"http://127.0.0.1:{site.port}")[0] == 405
    assert site.call("ann", "task", vote(site))[0] == 405


def test_odd_targets_are_refused(site):
    for target in ("*", "/", "//", "http://evil.example/", "/%", "/" + "x" * 5000):
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)
        connection.putrequest("OPTIONS" if target == "*" else "GET", target, skip_host=True)
        connection.putheader("Host", f"127.0.0.1:{site.port}")
        connection.endheaders()
        assert connection.getresponse().status in (400, 403, 404)
        connection.close()


# -- exact ------------------------------------------------------------------------------------------------------------


def test_the_reply_to_a_label_shows_the_pair_that_was_announced(site):
    before = site.task("ann")
    status, after = site.act("ann", vote(site))
    assert status == 200
    assert after["now"] == before["next"]
    assert after["done"] == before["done"] + 1
    assert after["undo"] == {"task": before["now"]["task"], "turn": 1}
    assert after["median_seconds"] == 4
    assert after["seconds_left"] == 4 * 23


def test_double_clicks_retries_and_two_windows_store_once(site):
    body = vote(site)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda k: site.act("ann", body | {"choice": ["left", "right"][k % 2]}), range(16)))
    assert all(status == 200 for status, _ in answers)
    assert {a["done"] for _, a in answers} == {1}
    assert site.store.count() == 1


def test_three_people_at_once_lose_nothing(site):
    def work(name):
        for k in range(24):
            body = vote(site, name, ["left", "right", "tie"][k % 3])
            assert site.act(name, body)[0] == 200
            assert site.act(name, body)[0] == 200

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, ("ann", "bob", "cat")))
    assert site.store.count() == 72
    assert len(site.store.judgements()) == 72


def test_what_was_pressed_is_what_is_stored(site):
    shown = site.task("ann")["now"]
    site.act("ann", vote(site, choice="right", strength=3))
    (label,) = site.store.labels()
    assert site.store.responses()[label.winner].text == shown["right"]
    assert label.strength == 3
    site.act("ann", vote(site, choice="skip", reason="unclear"))
    assert site.store.labels()[-1].reason == "unclear"


def test_a_restarted_server_goes_on_with_the_same_links(tmp_path):
    store = opened(tmp_path / "s", names=("ann",))
    with served(store) as site:
        site.act("ann", vote(site))
        was, links = site.task("ann"), site.tokens
    store.close()
    with served(Store(tmp_path / "s")) as site:
        assert site.tokens == links
        assert site.task("ann") == was


# -- hostile texts ----------------------------------------------------------------------------------------------------


def test_hostile_texts_arrive_unchanged_and_are_shown_escaped(tmp_path):
    assert len(HOSTILE) == 30
    texts = [(h, f"plain {k}") for k, h in enumerate(HOSTILE)]
    store = opened(tmp_path / "s", study(30, texts), ("ann", "bob"))
    arrived = set()
    with served(store) as site:
        for _ in range(60):
            now = site.task("ann")["now"]
            arrived |= {now["left"], now["right"]}
            first = site.store.sheet("ann").now.first
            side = "left" if store.responses()[first].policy != "reference" else "right"
            site.act("ann", vote(site, choice=side))
        for _ in range(60):
            first = site.store.sheet("bob").now.first
            side = "right" if store.responses()[first].policy != "reference" else "left"
            site.act("bob", vote(site, "bob", side))
        page = site.call("(admin)", "")[1].decode()
    assert set(HOSTILE) <= arrived
    assert page.count("<script") == 1
    assert not re.search(r"<(img|svg|iframe|form|base|style|a|b)\b", page)
    assert page.count("<h1") == 1
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200f\ufeff]", page)
    assert "U+202E" in page
    assert "&lt;script&gt;" in page


def test_the_admin_page_names_no_policy_unless_opened(site):
    label_all(site.store, "ann", lambda *_: "first")
    label_all(site.store, "bob", lambda *_: "second")
    page = site.call("(admin)", "")[1].decode()
    before, _, after = page.partition("Win rates by people")
    assert "40 of" in before or "24 of 24" in before
    for policy in POLICIES:
        assert policy not in before
        assert policy in after
    assert "<details open" not in page
