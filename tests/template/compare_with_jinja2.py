#!/usr/bin/env python3
"""Differential test: random templates and conversations, rendered by jinja2 (as transformers sets it up) and by
render_driver; text must agree byte for byte, and one must fail where the other does.

    compare_with_jinja2.py DRIVER [--count 10000] [--seed 0] [--show 10]

Skipped and counted: what the interpreter refuses by name ("not supported"), integers beyond 64 bits, exceeded limits,
and text with the address of a Python object. With transformers installed, reference.py is first checked against it.
Templates of real tokenizers are added from the directories under $SIGNALBOX_TOKENIZERS."""
import argparse
import collections
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import warnings

import conversations
import reference

warnings.simplefilter("ignore")
HERE = pathlib.Path(__file__).parent

ATOMS = ["0", "1", "-1", "2", "3", "10", "1.5", "0.0", "-2.5", "1e16", "100000000000", "true", "false", "none", "''", "'abc'",
         "'a b'", "'Héllo wörld'", "\"it's\"", "'x\\ny'", "' pad '", "'1,2,3'", "'12'", "'3.7'", "'%s-%s'", "'😀é'", "[]",
         "[1, 2, 3]", "['b', 'a', 'C']", "[3, 1.0, 2]", "{}", "{'a': 1, 'b': 'x'}", "{'k': [1, {'z': none}]}", "(1, 2)", "(1,)",
         "[[1, 2], [3, 4]]", "[{'n': 2, 's': 'b'}, {'n': 1, 's': 'A'}]", "range(4)", "range(5, 0, -2)", "missing", "messages",
         "messages[0]", "messages[0].content", "messages[-1]['role']", "extra", "tools", "bos_token", "ns", "ns.v", "v", "w",
         "loop.index0", "loop.last", "item", "none_value"]
BINARY = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"]
FILTERS = ["abs", "attr('x')", "batch(2)|list", "batch(3, 0)|list", "capitalize", "center(7)", "count", "d('D')", "default('D', true)",
           "dictsort", "dictsort(true, 'value')", "dictsort(reverse=true)", "e", "escape", "filesizeformat", "first", "float",
           "float(1)", "forceescape", "format(1, 'a')", "groupby('n')", "groupby('s', default='q')|list", "indent", "indent(2, true)", "indent('>', blank=true)",
           "int", "int(5)", "int(base=16)", "join", "join(', ')", "join('-', attribute='n')", "last", "length", "list", "lower",
           "items|list", "map('upper')|list", "map('int')|list", "map(attribute='n')|list", "map(attribute='0', default=9)|list",
           "map('default', 'q')|join", "max", "min", "min(attribute='n')", "reject|list", "reject('none')|list", "rejectattr('n')|list", "replace('a', 'Z')",
           "replace('', '-', 2)", "reverse|list", "reverse", "round", "round(1)", "round(1, 'floor')", "round(-1)", "round(method='ceil')", "safe",
           "select|list", "select('string')|list", "select('gt', 1)|list", "selectattr('n')|list", "selectattr('s', 'equalto', 'b')|list",
           "slice(2)|list", "sort", "sort(reverse=true)", "sort(attribute='n')", "sort(attribute='s,n', case_sensitive=true)", "string", "striptags", "sum", "sum(attribute='n')",
           "sum(start=10)", "title", "tojson", "tojson(indent=2)", "tojson(ensure_ascii=true, sort_keys=true)", "tojson(separators=(',', ':'))", "trim", "trim('a ')",
           "truncate(5)", "truncate(6, true, '~', 0)", "unique|list", "unique(true)|list", "upper", "urlencode", "wordcount",
           "xmlattr"]
TESTS = ["defined", "undefined", "none", "string", "mapping", "sequence", "iterable", "number", "integer", "float", "boolean",
         "true", "false", "callable", "odd", "even", "divisibleby(2)", "divisibleby 3", "lower", "upper", "eq 1", "equalto('abc')", "ne(2)", "lt(2)",
         "le 1", "gt(0)", "ge(1)", "in [1, 'abc', none]", "in 'xabcx'", "sameas(none)", "sameas true", "filter", "test", "escaped", "==(1)" if False else "eq(none)"]
METHODS = ["upper()", "lower()", "title()", "capitalize()", "swapcase()", "casefold()", "strip()", "lstrip('a')", "rstrip()", "split()", "split('a')",
           "split(',', 1)", "rsplit(None, 1)", "rsplit(',')", "splitlines()", "splitlines(true)", "startswith('a')", "endswith(('c', 'd'))", "startswith('b', 1)",
           "replace('a', 'bb')", "replace('', '.')", "find('b')", "find('l', -3)", "rfind('l')", "index('b')", "count('l')", "count('')", "join(['x', 'y'])", "join('ab')",
           "format(1, 2)", "isdigit()", "isalpha()", "isalnum()", "isspace()", "isupper()", "islower()", "istitle()", "zfill(5)", "ljust(6, '.')",
           "rjust(6)", "center(8, '*')", "center(7)", "removeprefix('a')", "removesuffix('c')", "partition(' ')", "rpartition('l')",
           "expandtabs(4)", "items()", "keys()|list", "values()|list", "get('a')", "get('q', 7)", "copy()", "index(1)", "count(1)", "append(1)", "pop()",
           "update({})", "nope()", "isascii()", "isdecimal()"]
FORMATS = ["'%d'", "'%5.1f|'", "'%-6s|'", "'%x'", "'%05d'", "'%+d'", "'%e'", "'%g'", "'%r'", "'%%'", "'%(a)s'", "'%c'", "'%.2s'", "'%o'", "'%#x'"]
BRACES = ["'{}'", "'{:>8}|'", "'{:<5}|'", "'{:^9}|'", "'{:05d}'", "'{:.2f}'", "'{:,}'", "'{!r}'", "'{0} {0}'", "'{{}}'", "'{:x}'", "'{:e}'", "'{:%}'", "'{:*^7}'", "'{0[0]}'",
          "'{:+}'", "'{:10.3f}'", "'{:g}'"]


class Generator:
    def __init__(self, rng):
        self.rng = rng

    def expr(self, depth=2):
        rng, kind = self.rng, self.rng.random()
        if depth <= 0 or kind < 0.16:
            return rng.choice(ATOMS)
        sub = lambda: self.expr(depth - 1)  # noqa: E731
        if kind < 0.32:
            return f"({sub()} {rng.choice(BINARY)} {sub()})" if rng.random() < 0.7 else f"{sub()} {rng.choice(BINARY)} {sub()}"
        if kind < 0.52:
            return f"({sub()})|{rng.choice(FILTERS)}"
        if kind < 0.60:
            return f"({sub()}) is {rng.choice(['', '', 'not '])}{rng.choice(TESTS)}"
        if kind < 0.74:
            return f"({sub()}).{rng.choice(METHODS)}"
        if kind < 0.79:
            index = rng.choice(["0", "-1", "1:", "::-1", ":2", "-2:", "1:3", "::2", "'a'", "'n'", "7", "none", ":", sub()])
            return f"({sub()})[{index}]"
        if kind < 0.83:
            return f"({sub()} if {sub()}{f' else {sub()}' if rng.random() < 0.8 else ''})"
        if kind < 0.86:
            return f"[{', '.join(sub() for _ in range(rng.randrange(3)))}]"
        if kind < 0.88:
            return f"{{{sub()}: {sub()}}}"
        if kind < 0.91:
            return f"{rng.choice(['not ', '-', '+', 'not'])}({sub()})"
        if kind < 0.94:
            return f"({rng.choice(FORMATS)} % {rng.choice(['(' + sub() + ')', '(' + sub() + ', ' + sub() + ')'])})"
        if kind < 0.97:
            return f"{rng.choice(BRACES)}.format({sub()})"
        return rng.choice([f"({sub()}, {sub()})", f"m({sub()})", f"m({sub()}, b={sub()})", f"dict(a={sub()})", f"{sub()} < {sub()} < {sub()}",
                           f"({sub()}).{rng.choice(['a', 'n', 'content', 'x', 'real'])}", f"({sub()}) ~ ({sub()}) ~ ''"])

    def tag(self, text):
        left, right = self.rng.choice(["", "", "", "-", "+"]), self.rng.choice(["", "", "", "-", "+"])
        return "{%" + left + " " + text + " " + right + "%}"

    def gap(self):
        return self.rng.choice(["", "", " ", "\n", "  \n", "\n  ", " \t", "text", "\ntext\n  ", "é ", "\r\n", "{# c #}", "\n  {#- c -#}\n", "\u00a0\n", "}}", "{"])

    def body(self, depth):
        return "".join(self.gap() + self.statement(depth) for _ in range(self.rng.randrange(1, 3))) + self.gap()

    def statement(self, depth):
        rng, kind = self.rng, self.rng.random()
        if depth <= 0 or kind < 0.35:
            sign = rng.choice(["", "", "-"])
            return "{{" + sign + " " + self.expr(rng.randrange(3)) + " " + rng.choice(["", "", "-"]) + "}}"
        b = lambda: self.body(depth - 1)  # noqa: E731
        e = lambda: self.expr(1)  # noqa: E731
        t = self.tag
        if kind < 0.47:
            target = rng.choice(["v", "w", "ns.v", "v, w", "item"])
            return t(f"set {target} = {self.expr(2)}{', ' + e() if target == 'v, w' else ''}")
        if kind < 0.60:
            return t(f"if {e()}") + b() + (t(f"elif {e()}") + b() if rng.random() < 0.3 else "") + (t("else") + b() if rng.random() < 0.4 else "") + t("endif")
        if kind < 0.78:
            iterable = rng.choice([e(), "messages", "range(3)", "[1, [2, 3]]", "{'a': 1}.items()", "'ab'"])
            target = rng.choice(["item", "item", "v", "v, w"])
            extra = rng.choice(["", "", "", f" if {e()}", " recursive"])
            inner = rng.choice(["", "{{ loop.index }}", "{{ loop.length }}{{ loop.revindex }}", "{{ loop.last }}{{ loop.nextitem }}", t("break"), t("continue"), "{{ loop.previtem }}",
                                "{{ loop.cycle(1, 2) }}", "{{ loop.changed(item) }}", t("if loop.index > 1") + t("break") + t("endif"), "{{ loop }}"])
            return t(f"for {target} in {iterable}{extra}") + inner + b() + (t("else") + b() if rng.random() < 0.3 else "") + t("endfor")
        if kind < 0.82:
            return t(f"set {rng.choice(['v', 'ns.v'])}{rng.choice(['', '|upper', '|trim|length'])}") + b() + t("endset")
        if kind < 0.86:
            return t(f"with v = {e()}, q = {e()}") + b() + t("endwith")
        if kind < 0.89:
            return t("filter " + rng.choice(["upper", "trim", "replace('a', 'b')", "indent(2)|upper", "length"])) + b() + t("endfilter")
        if kind < 0.93:
            return t(f"macro m2(a, b={e()})") + b() + rng.choice(["{{ a }}", "{{ varargs }}", "{{ kwargs }}", "{{ caller() }}"]) + t("endmacro") + "{{ m2(" + rng.choice(["1", "1, 2", "b=2", "1, 2, 3", "1, c=3", ""]) + ") }}"
        if kind < 0.96:
            return t(rng.choice(["call(x) wrap('y')", "call wrap()", "call m(1)"])) + b() + t("endcall")
        if kind < 0.98:
            return t("generation") + b() + t("endgeneration")
        return t("raw") + self.gap() + "{{ raw }}" + t("endraw")

    def template(self):
        head = ""
        if self.rng.random() < 0.8:
            head = ("{%- set ns = namespace(v='n', l=[]) -%}{%- set w = [1, 'two'] -%}{%- macro m(a, b='B') -%}<{{ a }}{{ b }}>{%- endmacro -%}"
                    "{%- macro wrap(x='') -%}({{ caller(x) }}){%- endmacro -%}")
        if self.rng.random() < 0.4:
            return head + "{{ " + self.expr(3) + " }}"
        return head + self.body(3)


def mutate(rng, template):
    """A template with a small wound."""
    for _ in range(rng.randrange(1, 3)):
        kind = rng.randrange(5)
        at = rng.randrange(len(template) + 1)
        if kind == 0:
            template = template[:at] + template[at + rng.randrange(1, 6):]
        elif kind == 1:
            template = template[:at] + rng.choice(["{{", "}}", "{%", "%}", "-", "|", "'", "\n", "(", ")", " if ", "not ", ".x", "[0]", "~", "{#", "é"]) + template[at:]
        elif kind == 2:
            names = list(re.finditer(r"\b[a-z_]{3,}\b", template))
            if len(names) > 1:
                a, b = rng.choice(names), rng.choice(names)
                template = template[:a.start()] + b.group() + template[a.end():]
        elif kind == 3:
            signs = list(re.finditer(r"\{%-?|-?%\}|\{\{-?|-?\}\}", template))
            if signs:
                s = rng.choice(signs)
                core = s.group().replace("-", "")
                template = template[:s.start()] + (core + rng.choice(["", "-"]) if core[0] == "{" else rng.choice(["", "-"]) + core) + template[s.end():]
        else:
            numbers = list(re.finditer(r"\b\d\b", template))
            if numbers:
                n = rng.choice(numbers)
                template = template[:n.start()] + str(rng.randrange(4)) + template[n.end():]
    return template


def check_against_transformers(templates):
    try:
        from transformers.utils.chat_template_utils import render_jinja_template
    except ImportError:
        print("transformers is not installed: reference.py is not checked against it")
        return
    env, n = reference.environment(), 0
    for template in templates:
        for seed in range(20):
            request = conversations.random_request(random.Random(seed))
            variables = {**request["special_tokens"], **request["variables"]}
            results = []
            for render in (lambda: reference.render(env, {"template": template, **request}),
                           lambda: render_jinja_template([request["messages"]], chat_template=template,
                                                         add_generation_prompt=request["add_generation_prompt"], **variables)[0][0]):
                try:
                    results.append(render())
                except Exception:  # noqa: BLE001
                    results.append(None)
            if "strftime_now" in template:
                results = [r and re.sub(r"\d{4}-\d\d-\d\d|\d\d \w{3} \d{4}", "DATE", r) for r in results]
            if results[0] != results[1]:
                sys.exit(f"reference.py differs from transformers, seed {seed}:\n{template[:300]}\n{results}")
            n += 1
    print(f"reference.py agrees with transformers on {n} renders")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("driver")
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=10)
    args = parser.parse_args()
    templates = [p.read_text(encoding="utf-8") for p in sorted((HERE / "corpus").glob("*.jinja"))]
    real = 0
    root = os.environ.get("SIGNALBOX_TOKENIZERS")
    for path in sorted(pathlib.Path(root).glob("*/tokenizer_config.json")) if root else []:
        template = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
        if isinstance(template, str):
            templates.append(template)
            real += 1
    print(f"{len(templates)} whole templates, {real} of them real" + ("" if real else " (SIGNALBOX_TOKENIZERS is not set: skipped)"))
    check_against_transformers(templates)

    env = reference.environment()
    driver = subprocess.Popen([args.driver], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    counts, skips, shown = collections.Counter(), collections.Counter(), 0
    for i in range(args.count):
        rng = random.Random(args.seed * 1_000_003 + i)
        request = conversations.random_request(rng)
        request["variables"].setdefault("date", "2025-03-09")
        request["variables"]["none_value"] = None
        kind = rng.choices(["expression", "whole", "mutated"], [6, 2, 2])[0]
        request["template"] = Generator(rng).template() if kind == "expression" else rng.choice(templates)
        if kind == "mutated":
            request["template"] = mutate(rng, request["template"])
        try:
            expected, message = reference.render(env, request), ""
            expected.encode("utf-8")
        except Exception as error:  # noqa: BLE001: any failure of jinja2 is one
            expected, message = None, f"{type(error).__name__}: {error}"
        driver.stdin.write(json.dumps(request) + "\n")
        driver.stdin.flush()
        line = driver.stdout.readline()
        if not line:
            sys.exit(f"the driver died on seed {args.seed}, case {i}:\n{json.dumps(request)}")
        answer = json.loads(line)
        counts[kind] += 1
        failure = answer.get("error", "")
        if expected is not None and (" at 0x" in expected or "_identifier" in expected):
            skips["an address of a Python object"] += 1
        elif failure.endswith("cannot be sliced") and expected is not None:
            skips["a slice that jinja2 folds to undefined because it is constant"] += 1
        elif failure and expected is not None and re.search(r"not supported|64.bit|does not fit|too deep|needs more than", failure):
            skips[re.sub(r"^.*?\): ", "", failure)[:60]] += 1
        elif (expected is None) != bool(failure) or (expected is not None and expected != answer["text"]):
            counts["DIFFERENT"] += 1
            if shown < args.show:
                shown += 1
                print(f"--- case {i} ({kind})\n{request['template']}\nvariables: {json.dumps(request['variables'])} messages: {json.dumps(request['messages'])}\n"
                      f"jinja2: {expected!r} {message}\nours:   {answer.get('text')!r} {failure}")
        else:
            counts["both fail" if failure else "same text"] += 1
    driver.stdin.close()
    print(dict(counts), f"skipped {sum(skips.values())}:", dict(skips.most_common(25)))
    different = counts["DIFFERENT"] > 0
    print(f"{int(not different)} passed, {int(different)} failed, {int(real == 0)} skipped")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
