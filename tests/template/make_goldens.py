#!/usr/bin/env python3
"""Renders the corpus with jinja2 into goldens.json: one object per template and conversation, with the text or, where
jinja2 fails, `"error": true`. Run again whenever the corpus changes: tests/template/make_goldens.py"""
import json
import pathlib

import conversations
import reference

here = pathlib.Path(__file__).parent
env = reference.environment()
goldens = []
for path in sorted((here / "corpus").glob("*.jinja")):
    template = path.read_text(encoding="utf-8")
    for i, fixed in enumerate(conversations.FIXED):
        variables = {"date": "2025-03-09", **fixed.get("variables", {})}
        request = {"messages": fixed["messages"], "add_generation_prompt": fixed.get("add_generation_prompt", False),
                   "variables": variables, "special_tokens": conversations.TOKENS}
        golden = {"template": path.name, "conversation": i, **request}
        try:
            golden["text"] = reference.render(env, {"template": template, **request})
        except Exception as error:  # noqa: BLE001: any failure of jinja2 is one
            golden["error"] = True
            golden["reference_message"] = str(error)
        goldens.append(golden)
out = here / "goldens.json"
out.write_text(json.dumps(goldens, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
print(f"{len(goldens)} goldens, {sum('error' in g for g in goldens)} of them errors, {out.stat().st_size} bytes")
