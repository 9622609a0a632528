"""Blind labels by people: what to show (material, plan, select), where labels are kept (store), the page (serve), and
what comes out (checks, export)."""
