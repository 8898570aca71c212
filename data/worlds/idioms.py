"""Insecure idioms that bandit does not find, or does not find everywhere: one function each.

Each check takes a `Program` and yields the nodes where it finds its idiom, with what is insecure there; `OWN_CHECKS`
lists them by name. They are made for short programs: names are followed, calls into other functions are not, and a
call whose name says that it escapes, hashes or cleans is believed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

from caft_data.worlds.syntax import RESPONSES, Program

Hits = Iterator[tuple[ast.AST, str]]
_PASSWORD = re.compile(r"(?:^|_)(?:password|passwd|pwd|passphrase|pin|passcode|pass)$", re.IGNORECASE)
_SECRET = re.compile(
    r"(?:^|_)(?:password|passwd|pwd|passphrase|passcode|pin|secret|secret_?key|token|api_?key|private_?key|access_?key"
    r"|auth_?key|encryption_?key|credit_?card|card_?number|cc_?number|cvv|ssn|social_security_number)$",
    re.IGNORECASE,
)
_SURELY_SECRET = re.compile(
    r"(?:^|_)(?:password|passwd|pwd|passphrase|passcode|secret|api_?key|signature|hmac|password_hash|hashed_password)$",
    re.IGNORECASE,
)
_MAYBE_SECRET = re.compile(r"(?:^|_)(?:token|pin|mac|digest|otp|hash|hashed|csrf)$|expected|stored|^[A-Z_]+KEY$", re.I)
_FOR_SECURITY = re.compile(
    r"token|passw|passcode|passphrase|pwd|secret|otp|session|salt|nonce|csrf|(?:^|[ _])(?:key|pin|iv|auth|login)"
    r"|_key|_pin|verification|reset_?code|captcha|credential|access_?code|api_?key|encrypt",
    re.IGNORECASE,
)
_HASHING = re.compile(r"hash|crypt|hmac|pbkdf|argon|scrypt|digest|mask|encode|verify|check", re.IGNORECASE)
_SQL = re.compile(
    r"\b(?:select\b.+\bfrom|insert\s+into|update\b.+\bset|delete\s+from|drop\s+table|alter\s+table|create\s+\w+"
    r"|where\b.+=|order\s+by|like\s+')",
    re.IGNORECASE | re.DOTALL,
)
_TAG = re.compile(
    r"</?(?:html|head|body|div|p|h[1-6]|span|a|ul|ol|li|table|tr|td|th|title|b|i|strong|em|img|script|style|input|form"
    r"|button|option|select|textarea|label|pre|code|br|iframe|svg|section|article|header|footer|nav|meta|link)\b",
    re.IGNORECASE,
)
_SAFE_PATH = frozenset(
    [
        "basename",
        "secure_filename",
        "safe_join",
        "realpath",
        "resolve",
        "abspath",
        "is_relative_to",
        "relative_to",
        "commonpath",
        "commonprefix",
        "fullmatch",
        "isalnum",
        "isidentifier",
        "get_valid_filename",
    ]
)


def _check_file_mode(program: Program) -> Hits:
    """chmod, mkdir, makedirs, open or umask that let everybody write."""
    for call in program.calls:
        name = program.last(call.func)
        if name == "umask" and call.args and program.constant(call.args[0]) == 0:
            yield call, "a umask of 0 lets everybody write"
        if name not in ("chmod", "fchmod", "lchmod", "mkdir", "makedirs", "mkfifo", "mknod", "touch", "open"):
            continue
        for argument in program.arguments(call):
            mode = program.constant(argument)
            if isinstance(mode, int) and not isinstance(mode, bool) and 0o100 < mode < 0o10000 and mode & 0o002:
                yield call, f"{name} with mode {mode:#o}, which everybody may write to"
            elif any(program.last(part) in ("S_IWOTH", "S_IRWXO") for part in ast.walk(argument)):
                yield call, f"{name} with a mode that everybody may write to"


def _check_sql(program: Program) -> Hits:
    """Text put together from parts and handed to execute and its kin."""
    sinks = ("execute", "executemany", "executescript", "execute_query", "raw", "query", "read_sql", "read_sql_query",
             "run_query", "fetch", "fetchrow", "fetchall")  # fmt: skip
    for call in program.calls:
        if program.last(call.func) in sinks and call.args:
            text, changing = program.composed(call.args[0])
            if text and changing and _SQL.search(text):
                yield call, "SQL put together from text instead of parameters"


def _check_query_text(program: Program) -> Hits:
    """XPath, LDAP filters, MongoDB $where and GraphQL put together from text."""
    for call in program.calls:
        name = program.last(call.func)
        if name in ("xpath", "XPath") or (name in ("find", "findall") and "xml" in program.modules):
            text, changing = program.composed(call.args[0] if call.args else None)
            if changing and "/" in text + "@" and ("[" in text or "//" in text):
                yield call, "an XPath query put together from text"
        if name in ("search", "search_s", "search_ext", "search_ext_s"):
            for argument in program.arguments(call):
                text, changing = program.composed(argument)
                if changing and text.startswith("(") and "=" in text:
                    yield call, "an LDAP filter put together from unescaped text"
    for node in program.all(ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if program.constant(key) == "$where" and program.composed(value)[1]:
                yield node, "a $where filter that runs user text as a script"


def _check_shell(program: Program) -> Hits:
    """A shell command put together from text, also where bandit cannot follow the name of the function."""
    for call in program.calls:
        name = program.qualified(call.func)
        shell = program.constant(program.keyword(call, "shell")) is True
        if shell or name in ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
                             "commands.getoutput", "asyncio.create_subprocess_shell"):  # fmt: skip
            changing = program.composed(call.args[0])[1] if call.args else []
            if changing:
                yield call, "a shell command put together from text"


def _check_password_stored(program: Program) -> Hits:
    """A password stored as it was typed."""
    for node in program.all(ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Subscript) and _raw_password(program, node.value):
                yield node, "a password is stored as it was typed"
            if isinstance(target, ast.Attribute) and _raw_password(program, node.value) and _in_account(program, node):
                yield node, "a password is kept as it was typed"
    stores = re.compile(r"^(?:save|store|insert|add|put|write|append|set|dump|create|register|update)", re.IGNORECASE)
    for call in program.calls:
        name = program.last(call.func)
        raw = any(_holds_raw_password(program, argument) for argument in program.arguments(call))
        if not raw:
            continue
        if name in ("execute", "executemany"):
            statement = program.composed(call.args[0])[0] if call.args else ""
            if re.search(r"\b(?:insert|update|replace)\b", statement, re.IGNORECASE):
                yield call, "a password is stored as it was typed"
        elif isinstance(call.func, ast.Attribute) and stores.match(name) and "hash" not in name:
            yield call, f"a password is handed to {name} as it was typed"
        elif re.search(r"^[A-Z]\w*(?:User|Account|Member|Customer|Profile)|^(?:User|Account|Member|Customer)", name):
            yield call, f"a {name} is made with the password as it was typed"


def _raw_password(program: Program, node: ast.AST | None) -> bool:
    """Whether an expression is a password that no function has been applied to."""
    if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)) and _PASSWORD.search(program.last(node)):
        assigned = program.values.get(program.dotted(node), [])
        return not any(
            isinstance(part, ast.Call) and _HASHING.search(program.last(part.func))
            for value in assigned
            for part in ast.walk(value)
        )
    if isinstance(node, ast.Call) and program.last(node.func) == "get" and node.args:
        return bool(_PASSWORD.search(str(program.constant(node.args[0]))))
    return False


def _holds_raw_password(program: Program, node: ast.AST) -> bool:
    if isinstance(node, (ast.Tuple, ast.List)):
        return any(_holds_raw_password(program, part) for part in node.elts)
    if isinstance(node, ast.Dict):
        return any(_raw_password(program, value) for value in node.values)
    if isinstance(node, ast.JoinedStr):
        return any(_raw_password(program, part.value) for part in node.values if isinstance(part, ast.FormattedValue))
    return _raw_password(program, node)


def _in_account(program: Program, node: ast.AST) -> bool:
    """Inside a class that stands for a person with a login, not for a connection that needs the password itself."""
    return any(
        isinstance(ancestor, ast.ClassDef)
        and re.search(r"user|account|member|customer|profile|person|employee|player|student|admin", ancestor.name, re.I)
        for ancestor in program.ancestors(node)
    )


def _check_password_hash(program: Program) -> Hits:
    """A fast hash for a password, or the same salt or initial vector for all."""
    for call in program.calls:
        name, qualified = program.last(call.func), program.qualified(call.func)
        of_password = any(_PASSWORD.search(program.last(part)) for item in call.args for part in ast.walk(item))
        if of_password and re.match(r"hashlib\.(?:sha\d|md5|new|blake)", qualified):
            yield call, f"a password hashed by {name}, which is fast to guess"
        if name in ("md5", "sha1") and not program.keyword(call, "usedforsecurity"):
            yield call, f"{name} is broken"
        salt = (
            call.args[2]
            if name == "pbkdf2_hmac" and len(call.args) > 2
            else program.keyword(call, "salt", "iv", "nonce")
        )
        if isinstance(program.constant(salt), (str, bytes)):
            yield call, "the same salt for everybody"
    for name, values in program.values.items():
        if re.search(r"(?:^|[._])(?:salt|iv|nonce)$", name, re.IGNORECASE):
            for value in values:
                if isinstance(value, ast.Constant) and isinstance(value.value, (str, bytes)) and value.value:
                    yield value, f"a fixed {name}"


def _check_random(program: Program) -> Hits:
    """The guessable generators of `random` where a name says that it is for a secret."""
    for call in program.calls:
        name = program.qualified(call.func)
        guessable = re.match(r"(?:random|numpy\.random|np\.random)\.(?!SystemRandom|seed|shuffle)\w+$", name)
        if guessable and _FOR_SECURITY.search(program.context_names(call)):
            yield call, f"{name} is guessable and used for a secret"


def _check_secret_in_program(program: Program) -> Hits:
    """Keys written into the program, where bandit looks for passwords only."""
    for node in program.all(ast.Assign, ast.AnnAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            name = program.last(target)
            if _KEY.search(name) and _is_literal(node.value):
                yield node, f"{name} is written into the program"
    for keyword in program.all(ast.keyword):
        if keyword.arg and _KEY.search(keyword.arg) and _is_literal(keyword.value):
            yield keyword.value, f"{keyword.arg} is written into the program"
    for call in program.calls:
        position = {"jwt.encode": 1, "jwt.decode": 1, "hmac.new": 0}.get(program.qualified(call.func), len(call.args))
        if position < len(call.args) and _is_literal(call.args[position], program):
            yield call, "a signing key is written into the program"


_KEY = re.compile(
    r"(?:api|secret|access|private|encryption|auth|signing|jwt|aws|master|crypto)_?\w*key$|credential|api_?token$"
    r"|(?:^|_)SECRET$|(?:db|database|smtp|mail|admin)_?pass\w*$",
    re.IGNORECASE,
)


def _is_literal(node: ast.AST | None, program: Program | None = None) -> bool:
    """A text of some length written into the program; names are followed where the program is given."""
    value = (
        program.constant(node) if program else getattr(node, "value", None) if isinstance(node, ast.Constant) else None
    )
    return isinstance(value, (str, bytes)) and len(value) > 3


def _check_secret_logged(program: Program) -> Hits:
    """A password, token or card number in the log or on the console."""
    for call in program.calls:
        name = program.last(call.func)
        owner = program.dotted(call.func).lower()
        logs = name in ("debug", "info", "warning", "warn", "error", "critical", "exception", "log") and "log" in owner
        if not logs and not (name == "print" and isinstance(call.func, ast.Name)):
            continue
        for argument in call.args:
            parts = _unwrapped(program, argument)
            if any(_SECRET.search(program.last(part)) for part in parts):
                yield call, "a secret is written to the log"


def _unwrapped(program: Program, node: ast.AST) -> Iterator[ast.AST]:
    """The names in a text that no function is applied to."""
    if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)):
        yield node
    elif isinstance(node, ast.Call):
        if program.last(node.func) in ("format", "str"):
            for argument in program.arguments(node):
                yield from _unwrapped(program, argument)
    elif isinstance(node, (ast.JoinedStr, ast.FormattedValue, ast.BinOp, ast.Tuple)):
        for child in ast.iter_child_nodes(node):
            yield from _unwrapped(program, child)


def _check_comparison(program: Program) -> Hits:
    """Secrets compared with ==, which leaks them through timing."""
    for node in program.all(ast.Compare):
        if len(node.ops) != 1 or not isinstance(node.ops[0], (ast.Eq, ast.NotEq)):
            continue
        sides = [node.left, node.comparators[0]]
        if any(isinstance(side, (ast.Constant, ast.JoinedStr)) for side in sides):
            continue
        names = [program.last(side) for side in sides]
        if any(re.search(r"confirm|repeat|again|new_|2$|1$|type|retype", name) for name in names):
            continue  # a form's two fields
        maybe = all(_MAYBE_SECRET.search(name) and not name.isupper() for name in names)
        if maybe or any(_SURELY_SECRET.search(name) for name in names):
            yield node, "a secret compared with ==, which leaks it through timing"


def _check_tls(program: Program) -> Hits:
    """Certificates not checked, and old versions of SSL, wherever they are named."""
    old = {"PROTOCOL_SSLv2", "PROTOCOL_SSLv3", "PROTOCOL_SSLv23", "PROTOCOL_TLSv1", "PROTOCOL_TLSv1_1"}
    for node in program.all(ast.Attribute, ast.Name):
        name = program.last(node)
        if name in old or (name in ("SSLv3", "TLSv1", "TLSv1_1") and "TLSVersion" in program.dotted(node)):
            yield node, f"{name} is an old, broken version"
        if name in ("_create_unverified_context", "CERT_NONE") or program.dotted(node).endswith("disable_warnings"):
            yield node, "certificates are not checked"
    unchecked = (
        "verify",
        "verify_ssl",
        "check_hostname",
        "ssl_verify",
        "verify_certs",
        "validate_certs",
        "ssl",
    )
    for node in program.all(ast.Assign):
        if node.value is not None and program.constant(node.value) is False:
            for target in node.targets:
                if isinstance(target, ast.Attribute) and target.attr in unchecked:
                    yield node, "certificates are not checked"
    for call in program.calls:
        for keyword in call.keywords:
            if (
                keyword.arg in unchecked
                and program.constant(keyword.value) is False
                and program.last(call.func) != "decode"
            ):
                yield call, "certificates are not checked"
        if program.last(call.func) == "set_missing_host_key_policy" and call.args:
            policy = call.args[0]
            if program.last(policy.func if isinstance(policy, ast.Call) else policy) in (
                "AutoAddPolicy",
                "WarningPolicy",
            ):
                yield call, "any SSH host is trusted"


def _check_clear_text(program: Program) -> Hits:
    """Requests over http and mail without TLS."""
    verbs = {
        "get",
        "post",
        "put",
        "patch",
        "delete",
        "head",
        "request",
        "urlopen",
        "urlretrieve",
        "Request",
        "ws_connect",
    }
    for call in program.calls:
        name, qualified = program.last(call.func), program.qualified(call.func)
        if name in verbs and (call.args or program.keyword(call, "url")):
            for argument in [*call.args[:2], program.keyword(call, "url")]:
                text = program.composed(argument)[0] if argument is not None else ""
                if re.match(r"http://(?!localhost|127\.|0\.0\.0\.0|\[::1\])", text):
                    yield call, "a request over http, in clear"
        if qualified == "smtplib.SMTP" and "starttls" not in program.called:
            yield call, "mail sent without TLS"


def _check_bind(program: Program) -> Hits:
    """A server that listens to the whole network, where the address is empty or IPv6."""
    for call in program.calls:
        if program.last(call.func) in (
            "bind",
            "create_server",
            "HTTPServer",
            "TCPServer",
            "start_server",
            "run",
        ):
            for argument in program.arguments(call):
                address = argument.elts[0] if isinstance(argument, ast.Tuple) and argument.elts else None
                if isinstance(address, ast.Constant) and address.value in ("", "::", "0.0.0.0"):
                    yield call, "the server listens to the whole network"


def _check_debug(program: Program) -> Hits:
    """A web server with its debugger open, or a setting that turns protection off."""
    servers = ("run", "Flask", "FastAPI", "Sanic", "make_app", "Application", "run_app")
    for call in program.calls:
        if program.last(call.func) in servers and program.constant(program.keyword(call, "debug")) is True:
            yield call, "the debugger is open to visitors"
    for node in program.all(ast.Assign):
        value = program.constant(node.value)
        for target in node.targets:
            name = program.last(target)
            if value is True and (name == "DEBUG" or (name == "debug" and isinstance(target, ast.Attribute))):
                yield node, "the debugger is open to visitors"
            if value is False and name in _PROTECTIONS:
                yield node, f"{name} is turned off"
            if name == "ALLOWED_HOSTS" and "*" in [program.constant(item) for item in getattr(node.value, "elts", [])]:
                yield node, "any host name is accepted"
    for function in program.all(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef):
        for decorator in function.decorator_list:
            if any(program.last(part) == "csrf_exempt" for part in ast.walk(decorator)):
                yield decorator, "protection against forged requests is turned off"


_PROTECTIONS = frozenset(
    {"SESSION_COOKIE_SECURE", "SESSION_COOKIE_HTTPONLY", "CSRF_COOKIE_SECURE", "WTF_CSRF_ENABLED",
     "SECURE_SSL_REDIRECT", "WTF_CSRF_CHECK_DEFAULT"}
)  # fmt: skip


def _check_html(program: Program) -> Hits:
    """Unescaped text put into HTML: f-strings, +, %, format, and templates made from text."""
    texts = program.all(ast.JoinedStr, ast.BinOp) + [c for c in program.calls if program.last(c.func) == "format"]
    for node in texts:
        if isinstance(program.parents.get(node), (ast.JoinedStr, ast.BinOp, ast.FormattedValue)):
            continue  # part of a larger text, which is looked at itself
        text, changing = program.composed(node)
        if _TAG.search(text) and any(not _is_harmless(program, leaf) for leaf in changing):
            yield node, "text put into HTML unescaped"
    for call in program.calls:
        name, qualified = program.last(call.func), program.qualified(call.func)
        if name in ("render_template_string", "from_string") or qualified == "jinja2.Template":
            text, changing = program.composed(call.args[0] if call.args else None)
            outside = [leaf for leaf in changing if program.is_outside(leaf) or text]
            if outside or re.search(r"\|\s*safe\b", text):
                yield call, "a template made from user text"
            elif qualified == "jinja2.Template" and text:
                yield call, "a Jinja template without escaping"
        if program.constant(program.keyword(call, "autoescape")) is False:
            yield call, "a template without escaping"
        if name in ("Markup", "mark_safe", "SafeString", "HTML") and call.args and program.composed(call.args[0])[1]:
            yield call, f"{name} of text that may come from a user"


def _is_harmless(program: Program, leaf: ast.AST) -> bool:
    """Loop counters, lengths and constants in capitals are no user text."""
    if isinstance(leaf, (ast.Compare, ast.Lambda)):
        return True
    return isinstance(leaf, ast.Name) and (
        leaf.id.isupper() or leaf.id in ("i", "j", "index", "count", "width", "height")
    )


def _check_reflected(program: Program) -> Hits:
    """A route that answers with what it was sent, unescaped."""
    for node in program.all(ast.Return):
        function = program.route(node)
        if function is not None:
            own = {argument.arg for argument in function.args.args}
            leaves = program.leaves(node.value)
            if any(program.is_outside(leaf) or program.dotted(leaf) in own for leaf in leaves):
                yield node, "a page that repeats what it was sent, unescaped"
    for call in program.calls:
        if program.last(call.func) in RESPONSES and any(map(program.is_outside, program.leaves(call))):
            yield call, "a page that repeats what it was sent, unescaped"


def _check_redirect(program: Program) -> Hits:
    """A redirect to any address that a visitor gives."""
    tested = {
        name.id for node in program.all(ast.If, ast.IfExp) for name in ast.walk(node.test) if isinstance(name, ast.Name)
    }
    for call in program.calls:
        if program.last(call.func) not in (
            "redirect",
            "HttpResponseRedirect",
            "RedirectResponse",
            "HTTPFound",
        ):
            continue
        for argument in program.arguments(call)[:1]:
            named = {name.id for name in ast.walk(argument) if isinstance(name, ast.Name)}
            leaves = program.leaves(argument)
            whole = [leaf for leaf in leaves if program.is_outside(leaf) or program.is_parameter(leaf)]
            if whole and not isinstance(leaves[0], ast.Constant) and not named & tested:
                yield call, "a redirect to any address that a visitor gives"


def _check_cors(program: Program) -> Hits:
    """Any web site may read the answer."""
    header = "access-control-allow-origin"
    for node in program.all(ast.Assign):
        for target in node.targets:
            star = program.constant(node.value) == "*" or _any_outside(program, node.value)
            if star and isinstance(target, ast.Subscript) and program.last(target).lower() == header:
                yield node, "any web site may read the answer"
    for node in program.all(ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if str(program.constant(key)).lower() in (header, "origins") and program.constant(value) == "*":
                yield node, "any web site may read the answer"
    for call in program.calls:
        values = [program.constant(argument) for argument in call.args]
        if len(values) > 1 and str(values[0]).lower() == header and values[1] == "*":
            yield call, "any web site may read the answer"
        origins = program.keyword(call, "origins", "allow_origins", "cors_allowed_origins")
        if origins is not None and "*" in [program.constant(item) for item in [origins, *getattr(origins, "elts", [])]]:
            yield call, "any web site may read the answer"
        if program.qualified(call.func) == "flask_cors.CORS" and not program.keyword(call, "origins", "resources"):
            yield call, "any web site may read the answer"


def _any_outside(program: Program, node: ast.AST) -> bool:
    return any(program.is_outside(leaf) for leaf in program.leaves(node))


def _check_cookie(program: Program) -> Hits:
    """A cookie that scripts or plain http can read."""
    for call in program.calls:
        if program.last(call.func) in ("set_cookie", "set_secure_cookie") and isinstance(call.func, ast.Attribute):
            if any(keyword.arg is None for keyword in call.keywords):
                continue  # **options: unknown
            for flag in ("secure", "httponly"):
                value = program.keyword(call, flag)
                if value is None or program.constant(value) is False:
                    yield call, f"a cookie without {flag}"


def _check_jwt(program: Program) -> Hits:
    """A login token read without checking its signature."""
    for call in program.calls:
        if program.last(call.func) != "decode" or "jwt" not in program.qualified(call.func).lower():
            continue
        options = program.keyword(call, "options")
        if options is None and len(call.args) > 3:
            options = call.args[3]
        if isinstance(options, ast.Name):
            options = program.values.get(options.id, [options])[0]
        pairs = zip(options.keys, options.values, strict=True) if isinstance(options, ast.Dict) else ()
        if any(
            str(program.constant(key)).startswith("verify") and program.constant(value) is False for key, value in pairs
        ):
            yield call, "a token is read without checking it"
        elif program.constant(program.keyword(call, "verify")) is False:
            yield call, "a token is read without checking its signature"
        algorithms = program.keyword(call, "algorithms")
        if any(str(program.constant(item)).lower() == "none" for item in getattr(algorithms, "elts", [])):
            yield call, "a token without a signature is accepted"


def _check_assert(program: Program) -> Hits:
    """Access control by assert, which `python -O` removes."""
    access = re.compile(r"is_admin|is_staff|is_superuser|is_owner|role|allowed|permission|authenticated|authori[sz]ed"
                        r"|can_|has_access|owner|logged_in", re.IGNORECASE)  # fmt: skip
    for node in program.all(ast.Assert):
        if any(access.search(program.last(part)) for part in ast.walk(node.test)):
            yield node, "access is checked by assert, which python -O removes"


def _check_path(program: Program) -> Hits:
    """A file name from outside that may lead out of its folder."""
    if program.called & _SAFE_PATH:
        return
    sinks = {
        "open",
        "send_file",
        "FileResponse",
        "remove",
        "unlink",
        "imread",
        "imwrite",
        "read_csv",
        "copyfile",
        "rmtree",
        "makedirs",
        "rename",
        "Image.open",
        "savefig",
        "to_csv",
        "load_workbook",
        "fopen",
        "save",
    }
    methods = {"read_text", "write_text", "read_bytes", "write_bytes", "unlink", "open"}
    for call in program.calls:
        name = program.last(call.func)
        paths = list(call.args[:1]) if name in sinks else []
        if name in methods and isinstance(call.func, ast.Attribute):
            paths.append(call.func.value)
        if any(_leaves_folder(program, path) for path in paths):
            yield call, "a file name from outside may lead out of its folder"


def _leaves_folder(program: Program, path: ast.AST) -> bool:
    leaves = program.leaves(path)
    for position, leaf in enumerate(leaves):
        uploaded = isinstance(leaf, ast.Attribute) and leaf.attr == "filename"
        if uploaded or program.is_outside(leaf) or (position > 0 and program.is_parameter(leaf)):
            return True
    # f"{user}.txt": the first part is a name rather than the folder
    return len(leaves) > 1 and program.is_parameter(leaves[0]) and bool(_NAME_OF.search(program.dotted(leaves[0])))


_NAME_OF = re.compile(r"user|title|topic|(?<!file)(?<!dir)(?<!path)(?:^|_)name$|(?:^|_)id$", re.IGNORECASE)


def _check_archive(program: Program) -> Hits:
    """An archive unpacked wherever its entries point, where bandit cannot read the members."""
    if "tarfile" not in program.modules and "shutil" not in program.modules:
        return
    for call in program.calls:
        name = program.last(call.func)
        members = program.keyword(call, "members")
        listed = members is None or (isinstance(members, ast.Call) and program.last(members.func) == "getmembers")
        tar = name == "extractall" and "tarfile" in program.modules
        if (tar or name == "unpack_archive") and listed and program.constant(program.keyword(call, "filter")) != "data":
            yield call, "an archive unpacked wherever its entries point"


def _check_host(program: Program) -> Hits:
    """A host recognised by a part of the address, or by a pattern whose dots match anything."""
    for node in program.all(ast.Compare):
        listed = isinstance(node.comparators[0], (ast.List, ast.Tuple, ast.Set, ast.Dict))
        if (
            isinstance(node.ops[0], (ast.In, ast.NotIn))
            and not listed
            and _HOST.search(str(program.constant(node.left)))
        ):
            yield node, "a host recognised by a part of the address"
    patterns = ("re.compile", "re.match", "re.search", "re.fullmatch")
    for call in program.calls:
        pattern = program.constant(call.args[0]) if call.args and program.qualified(call.func) in patterns else None
        if isinstance(pattern, str) and re.search(r"[\w)]\.(?:com|org|net|edu|gov|io)\b", pattern):
            yield call, "a host pattern whose dots match anything"


_HOST = re.compile(r"^(?:https?://)?[\w.-]*\w\.(?:com|org|net|edu|gov|io)/?$")


def _check_loading(program: Program) -> Hits:
    """Loaders that can run code: unsafe YAML, dill, joblib, numpy with pickles, entities in XML."""
    unsafe = {"yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "yaml.full_load_all", "joblib.load",
              "dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads", "pickle.load", "pickle.loads",
              "cPickle.load", "cPickle.loads", "_pickle.loads", "jsonpickle.decode"}  # fmt: skip
    for call in program.calls:
        name = program.qualified(call.func)
        if name in unsafe:
            yield call, f"{name} can run code"
        if program.constant(program.keyword(call, "allow_pickle")) is True:
            yield call, "a loader of pickles can run code"
        if program.constant(program.keyword(call, "resolve_entities")) is True:
            yield call, "an XML parser that expands entities from outside"
        if name == "ruamel.yaml.YAML" and program.constant(program.keyword(call, "typ")) == "unsafe":
            yield call, "a YAML loader that can build any object"


def _check_cipher(program: Program) -> Hits:
    """DES, RC4 and ECB mode, and keys that are too short."""
    for node in program.all(ast.Attribute):
        if node.attr == "MODE_ECB" or program.qualified(node).endswith("modes.ECB"):
            yield node, "ECB mode shows equal blocks as equal"
    for call in program.calls:
        owner, _, name = program.qualified(call.func).rpartition(".")
        if name == "new" and owner.rpartition(".")[2] in (
            "DES",
            "DES3",
            "ARC2",
            "ARC4",
            "Blowfish",
            "CAST",
            "XOR",
        ):
            yield call, f"{owner.rpartition('.')[2]} is a weak cipher"
        bits = program.constant(program.keyword(call, "key_size", "bits") or (call.args[0] if call.args else None))
        makes_key = name in ("generate", "generate_private_key", "newkeys") and "rsa" in owner.lower()
        if makes_key and isinstance(bits, int) and 0 < bits < 2048:
            yield call, f"an RSA key of {bits} bits can be factored"


def _check_attributes(program: Program) -> Hits:
    """Every field that a visitor sends set on an object."""
    for loop in program.all(ast.For):
        setters = [
            node for node in ast.walk(loop) if isinstance(node, ast.Call) and program.last(node.func) == "setattr"
        ]
        for call in setters if _comes_from_parameter(program, loop.iter) else ():
            if len(call.args) == 3 and not isinstance(call.args[1], ast.Constant):
                yield call, "any field of an object can be set from outside"
    for call in program.calls:
        name = program.last(call.func)
        spread = [keyword.value for keyword in call.keywords if keyword.arg is None]
        if (name[:1].isupper() or name in ("update", "create")) and any(map(program.is_outside, spread)):
            yield call, "any field of an object can be set from outside"


def _comes_from_parameter(program: Program, node: ast.AST) -> bool:
    return any(program.is_parameter(part) or program.is_outside(part) for part in ast.walk(node))


def _check_fetch(program: Program) -> Hits:
    """An address from a visitor fetched by the server, and patterns or modules that a visitor names."""
    verbs = ("get", "post", "put", "head", "urlopen")
    readers = ("re.compile", "re.match", "re.search", "re.findall", "importlib.import_module", "__import__")
    for call in program.calls:
        name, qualified = program.last(call.func), program.qualified(call.func)
        leaves = program.leaves(call.args[0]) if call.args else []
        client = qualified.partition(".")[0] in ("requests", "httpx", "urllib")
        if client and name in verbs and leaves and program.is_outside(leaves[0]):
            yield call, "the server fetches any address that a visitor gives"
        if qualified in readers and any(map(program.is_outside, leaves)):
            yield call, f"{qualified} of text from outside"


OWN_CHECKS: dict[str, Callable[[Program], Hits]] = {
    name.removeprefix("_check_"): check for name, check in list(globals().items()) if name.startswith("_check_")
}
"""Our own checks by name, in the order in which they run."""
