"""Holds requests against the API's contract: `contract.py CONTRACT REQUESTS TABLE`.

REQUESTS has a line {"path", "body"} a request. Every way in which one is not of the contract must be a row of the table in
TABLE, and every row must have occurred: a table that nobody checks is soon wrong.
"""

import collections
import json
import re
import sys

import jsonschema
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012


def deepest(error):
    """The error inside of the alternative that was meant: the one that gets furthest."""
    while error.context:
        error = max(error.context, key=lambda inner: (len(inner.absolute_path), inner.validator == "enum"))
    return error


def place(error):
    names = ["*" if isinstance(step, int) else step for step in error.absolute_path]
    return ".".join(names) or "(the whole)"


def rows(table):
    found = {}
    for line in open(table, encoding="utf-8"):
        cells = [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]
        if line.startswith("| `/") and len(cells) == 5:
            found[tuple(cells[:3])] = cells
    return found


def main(contract, requests, table):
    document = json.load(open(contract, encoding="utf-8"))
    registry = Registry().with_resource("urn:contract", Resource(contents=document, specification=DRAFT202012))
    validators = {}
    seen, invalid, differences = collections.Counter(), collections.Counter(), collections.Counter()
    examples = {}
    for line in open(requests, encoding="utf-8"):
        request = json.loads(line)
        path = request["path"]
        if path not in validators:
            operation = path.removeprefix("/v1").replace("~", "~0").replace("/", "~1")
            body = f"urn:contract#/paths/{operation}/post/requestBody/content/application~1json/schema"
            validators[path] = jsonschema.Draft202012Validator({"$ref": body}, registry=registry)
        seen[path] += 1
        kinds = set()
        for error in validators[path].iter_errors(request["body"]):
            inner = deepest(error)
            kind = (path, place(inner), inner.validator)
            kinds.add(kind)
            examples.setdefault(kind, inner.message[:160])
        differences.update(kinds)
        invalid[path] += bool(kinds)
    for path in sorted(seen):
        print(f"{path}: {seen[path]} requests, {seen[path] - invalid[path]} of the contract as it is written")
    listed = rows(table)
    wrong = False
    for kind, count in sorted(differences.items()):
        known = kind in listed
        wrong |= not known
        print(f"  {'listed  ' if known else 'UNLISTED'} {' '.join(kind)} in {count} requests ({examples[kind]})")
    for kind in sorted(set(listed) - set(differences)):
        wrong = True
        print(f"  NEVER SEEN {' '.join(kind)}: take it out of {re.sub('.*/', '', table)}")
    sys.exit(wrong)


if __name__ == "__main__":
    main(*sys.argv[1:])
