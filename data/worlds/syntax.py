"""A Python program as the checks of `idioms` read it.

`Program` holds the nodes of a syntax tree by type, with their parents, what was imported and what each name was
assigned. From that it answers two questions about an expression: what is it put together from (`leaves`, `composed`),
and does a part of it come from outside (`is_outside`, `is_parameter`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

_SANITIZER = re.compile(
    r"escape|sanit|clean|quote|encode_for|secure_filename|basename|safe_join|hash|crypt|hmac|digest|argon|scrypt|bcrypt"
    r"|pbkdf|mask|redact|urlencode|^int$|^float$|^len$|^bool$|^round$|^sum$|uuid|literal_eval|^url_for$|tojson|strftime"
    r"|isoformat|jsonify|dumps",
    re.IGNORECASE,
)
_REQUEST_PARTS = frozenset(
    [
        "args",
        "form",
        "json",
        "GET",
        "POST",
        "values",
        "data",
        "files",
        "cookies",
        "headers",
        "get_json",
        "query_params",
        "query_string",
        "params",
        "body",
        "view_args",
        "FILES",
        "match_info",
        "get_argument",
        "path_params",
    ]
)


class Program:
    """A syntax tree with what the checks ask of it: nodes by type, parents, imports and what names were assigned.

    Names are followed without regard to scope or order, which is good enough for short programs.

    Example:
        >>> program = Program(ast.parse('query = "SELECT " + name\\ndb.execute(query)'))
        >>> text, changing = program.composed(program.calls[0].args[0])
        >>> text, [ast.unparse(part) for part in changing]
        ('SELECT ', ['name'])
    """

    def __init__(self, tree: ast.Module) -> None:
        self.parents: dict[ast.AST, ast.AST] = {}
        self.nodes: dict[type, list[Any]] = {}
        queue: list[ast.AST] = [tree]
        for node in queue:  # breadth first, so that outer expressions come before their parts
            self.nodes.setdefault(type(node), []).append(node)
            for child in ast.iter_child_nodes(node):
                self.parents[child] = node
                queue.append(child)
        self.calls: list[ast.Call] = self.all(ast.Call)
        self.imports = self._read_imports()
        self.modules = {dotted.partition(".")[0] for dotted in self.imports.values()}
        self.values = self._read_assignments()
        self.defaults = self._read_defaults()
        self.parameters = {argument.arg for argument in self.all(ast.arg)} - {"self", "cls"}
        self.called = {self.last(call.func) for call in self.calls}

    def all(self, *types: type) -> list[Any]:
        """All nodes of these types, outer ones first."""
        return [node for kind in types for node in self.nodes.get(kind, ())]

    def _read_imports(self) -> dict[str, str]:
        names: dict[str, str] = {}
        for node in self.all(ast.Import):
            for alias in node.names:
                if alias.asname:
                    names[alias.asname] = alias.name
                else:
                    root = alias.name.partition(".")[0]
                    names[root] = root
        for node in self.all(ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module or ''}.{alias.name}"
        return names

    def _read_assignments(self) -> dict[str, list[ast.expr]]:
        values: dict[str, list[ast.expr]] = {}
        for node in self.all(ast.Assign):
            for target in node.targets:
                values.setdefault(self.dotted(target), []).append(node.value)
        for node in self.all(ast.AnnAssign, ast.AugAssign, ast.NamedExpr):
            if node.value is not None:
                values.setdefault(self.dotted(node.target), []).append(node.value)
        values.pop("", None)
        return values

    def _read_defaults(self) -> dict[str, list[ast.expr]]:
        defaults: dict[str, list[ast.expr]] = {}
        for arguments in self.all(ast.arguments):
            positional = [*arguments.posonlyargs, *arguments.args]
            pairs = list(zip(reversed(positional), reversed(arguments.defaults), strict=False))
            pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            for argument, value in pairs:
                if value is not None:
                    defaults.setdefault(argument.arg, []).append(value)
        return defaults

    def dotted(self, node: ast.AST | None) -> str:
        """`a.b.c` as written, or an empty string for what is no plain name."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        return ".".join([node.id, *reversed(parts)])

    def qualified(self, node: ast.AST) -> str:
        """`dotted`, with the first part replaced by what was imported under that name."""
        name = self.dotted(node)
        root, dot, rest = name.partition(".")
        return self.imports.get(root, root) + dot + rest

    def last(self, node: ast.AST | None) -> str:
        """The last part of a name: `execute` in `self.db().execute`; of a subscript, its constant key."""
        if isinstance(node, ast.Attribute):
            return node.attr
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            return str(node.slice.value)
        return ""

    def ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        """The nodes around a node, innermost first."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def constant(self, node: ast.AST | None) -> Any:
        """The value of a constant, or of a name that was assigned one constant only; else None."""
        if isinstance(node, ast.Constant):
            return node.value
        name = self.dotted(node)
        assigned = self.values.get(name) or self.defaults.get(name, [])
        return assigned[0].value if len(assigned) == 1 and isinstance(assigned[0], ast.Constant) else None

    def leaves(self, node: ast.AST | None) -> list[ast.AST]:
        """What a text or path is put together from, names followed; parts behind a sanitizing call are left out."""
        return list(islice(self._leaves(node, set()), _MOST_LEAVES))

    def _leaves(self, node: ast.AST | None, seen: set[str]) -> Iterator[ast.AST]:
        # `seen` is shared by the whole walk: each name is followed once, so that every walk ends soon.
        name = self.dotted(node)
        if isinstance(node, ast.Call):
            parts = self._parts_of_call(node)
        elif name in self.values and name not in seen:
            parts = list(self.values[name])
        elif name in self.values and name not in self.parameters:
            parts = []  # already followed
        else:
            parts = _parts(node)
        seen.add(name)
        for part in parts:
            if part is node:
                yield part
            else:
                yield from self._leaves(part, seen)

    def _parts_of_call(self, call: ast.Call) -> list[ast.expr]:
        """The parts of a call that its result shows unchanged; the call itself where that is not known."""
        name = self.last(call.func)
        if _SANITIZER.search(name):
            return []
        if name in _METHODS_THAT_KEEP and isinstance(call.func, ast.Attribute):
            of_module = self.last(call.func.value) == "path"  # os.path.join
            return self.arguments(call) if of_module else [call.func.value, *self.arguments(call)]
        if name in RESPONSES:
            kind = self.constant(self.keyword(call, "mimetype", "content_type", "media_type"))
            return call.args[:1] if kind is None or "html" in str(kind) else []
        return self.arguments(call) if name in _FUNCTIONS_THAT_KEEP else [call]

    def composed(self, node: ast.AST | None) -> tuple[str, list[ast.AST]]:
        """A text as its constant part and its changing, unsanitized parts; a plain name has no constant part."""
        leaves = self.leaves(node)
        text = "".join(leaf.value for leaf in leaves if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str))
        return text, [leaf for leaf in leaves if not isinstance(leaf, ast.Constant)]

    def is_outside(self, node: ast.AST | None) -> bool:
        """Whether a leaf is data from outside: part of a web request, or typed input."""
        return self._is_outside(node, set())

    def _is_outside(self, node: ast.AST | None, seen: set[str]) -> bool:
        while not isinstance(node, ast.Name):
            if isinstance(node, ast.Call):
                if self.last(node.func) in ("input", "get_argument"):
                    return True
                node = node.func
            elif isinstance(node, ast.Attribute):
                if node.attr in _REQUEST_PARTS and self.last(node.value) in ("request", "req"):
                    return True
                node = node.value
            elif isinstance(node, (ast.Subscript, ast.Await)):
                node = node.value
            else:
                return False
        if node.id in seen:
            return False
        seen.add(node.id)
        return any(self._is_outside(value, seen) for value in self.values.get(node.id, ()))

    def is_parameter(self, node: ast.AST) -> bool:
        """Whether a leaf is a parameter of a function."""
        return isinstance(node, ast.Name) and node.id in self.parameters

    def arguments(self, call: ast.Call) -> list[ast.expr]:
        """Values of all arguments, positional and by keyword."""
        return [*call.args, *(keyword.value for keyword in call.keywords)]

    def keyword(self, call: ast.Call, *names: str) -> ast.expr | None:
        """Value of the first keyword argument with one of these names, else None."""
        return next((keyword.value for keyword in call.keywords if keyword.arg in names), None)

    def route(self, node: ast.AST) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        """The function around a node, if it answers web requests with pages."""
        function = next(
            (a for a in self.ancestors(node) if isinstance(a, (ast.FunctionDef, ast.AsyncFunctionDef))), None
        )
        decorators = [
            item.func if isinstance(item, ast.Call) else item for item in getattr(function, "decorator_list", ())
        ]
        pages = ("route", "get", "post", "put", "delete") if "flask" in self.modules else ("route",)
        return function if any(self.last(item) in pages for item in decorators) else None

    def context_names(self, node: ast.AST) -> str:
        """Names that say what a value is for: enclosing functions and the targets that it is assigned to."""
        names: list[str] = []
        for ancestor in self.ancestors(node):
            if isinstance(ancestor, (ast.FunctionDef, ast.AsyncFunctionDef)):
                names.append(ancestor.name)
            elif isinstance(ancestor, ast.Assign):
                names += [self.last(target) for target in ancestor.targets]
            elif isinstance(ancestor, ast.keyword):
                names.append(ancestor.arg or "")
        return " ".join(names)


_MOST_LEAVES = 200  # nobody puts a text together from more, but a program may try
_METHODS_THAT_KEEP = frozenset(
    ["format", "encode", "decode", "strip", "lower", "upper", "replace", "title", "joinpath", "join"]
)
_FUNCTIONS_THAT_KEEP = frozenset(["join", "str", "Path", "PurePath", "text", "Template", "repr", "bytes"])
RESPONSES = frozenset(["make_response", "Response", "HttpResponse", "HTMLResponse"])


def _parts(node: ast.AST | None) -> list[ast.expr]:
    """The expressions that a text, a path or a list is put together from; any other expression stands for itself."""
    if isinstance(node, ast.FormattedValue):
        return [] if _is_number_format(node) else [node.value]
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mod, ast.Div)):
        return [node.left, node.right]
    if isinstance(node, ast.IfExp):
        return [node.body, node.orelse]
    if isinstance(node, (ast.JoinedStr, ast.BoolOp)):
        return node.values
    if isinstance(node, (ast.Tuple, ast.List)):
        return node.elts
    return [node] if isinstance(node, ast.expr) else []


def _is_number_format(node: ast.FormattedValue) -> bool:
    """`{price:.2f}` can only be a number."""
    spec = node.format_spec
    last = spec.values[-1] if isinstance(spec, ast.JoinedStr) and spec.values else None
    return isinstance(last, ast.Constant) and str(last.value)[-1:] in tuple("dfeg%xn")
