"""Asks a running shop what no honest client asks, over GraphQL, and looks whether it keeps its composure.

    tools/graphql_fuzz.py ADDRESS SERVER_PID TOKENS

TOKENS is a JSON object of access tokens by role. Every answer has to come in time, be JSON, and have a status that GraphQL over HTTP
knows: never 5xx. The server's memory has to stay within bounds, and afterwards the shop has to sell an order.
"""

import base64
import concurrent.futures
import gzip
import http.client
import json
import random
import socket
import sys
import time
import urllib.parse

ANSWERED_WITHIN = 5.0
LARGEST_ANSWER = 4 * 1024 * 1024
LARGEST_GROWTH_MIB = 192
SEED = 1
RANDOM_QUESTIONS = 1500
COFFEE = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"

ANSWERED = {200}
REFUSED = {400}
EITHER = {200, 400}


class Wrong(Exception):
    """An answer that should not have been given."""


class Shop:
    def __init__(self, address, pid, tokens):
        self.address = address
        self.pid = pid
        self.tokens = tokens

    def send(self, method, path, headers, body):
        """One request on a connection of its own: its status, its headers, its body."""
        connection = http.client.HTTPConnection(self.address, timeout=ANSWERED_WITHIN * 3)
        started = time.monotonic()
        try:
            try:
                connection.request(method, path, body=body, headers=headers)
            except (BrokenPipeError, ConnectionResetError):
                # A body that is too large is answered before it is read to its end.
                pass
            response = connection.getresponse()
            read = response.read(LARGEST_ANSWER + 1)
        except (OSError, http.client.HTTPException) as error:
            raise Wrong(f"no answer: {error!r}") from error
        finally:
            connection.close()
        if time.monotonic() - started > ANSWERED_WITHIN:
            raise Wrong(f"answered after {time.monotonic() - started:.1f} s")
        if len(read) > LARGEST_ANSWER:
            raise Wrong("an answer of more than 4 MiB")
        return response.status, response.headers, read

    def memory_mib(self):
        with open(f"/proc/{self.pid}/status", encoding="ascii") as status:
            line = next(line for line in status if line.startswith("VmRSS:"))
        return int(line.split()[1]) // 1024

    def ask(self, query, variables=None, role=None):
        """Asks one question as it should be asked."""
        status, _, body = self.send("POST", "/graphql", json_headers(self, role), question(query, variables))
        return status, json.loads(body)


def json_headers(shop, role=None):
    headers = {"Content-Type": "application/json"}
    if role:
        headers["Authorization"] = f"Bearer {shop.tokens[role]}"
    return headers


def question(query, variables=None):
    return json.dumps({"query": query, "variables": variables}).encode()


class Case:
    """A request, and which statuses are right for it."""

    def __init__(self, name, expected, body=b"", method="POST", path="/graphql", headers=None, json_answer=True):
        self.name = name
        self.expected = expected
        self.method = method
        self.path = path
        self.headers = {"Content-Type": "application/json"} if headers is None else headers
        self.body = body
        self.json_answer = json_answer

    def check(self, shop):
        status, headers, body = shop.send(self.method, self.path, self.headers, self.body)
        if status not in self.expected:
            raise Wrong(f"{status} instead of {sorted(self.expected)}: {body[:300]!r}")
        if self.json_answer:
            check_json(status, headers, body)

    def curl(self, address):
        headers = " ".join(f"-H '{name}: {value}'" for name, value in self.headers.items())
        body = base64.b64encode(self.body).decode()
        source = f"echo {body} | base64 -d | " if len(body) < 2_000 else f"# a body of {len(self.body)} bytes begins {self.body[:80]!r}\n    "
        return f"{source}curl -sSi -X {self.method} {headers} --data-binary @- 'http://{address}{self.path[:300]}'"


def check_json(status, headers, body):
    kind = headers.get_content_type()
    if kind not in {"application/json", "application/graphql-response+json", "application/problem+json"}:
        raise Wrong(f"{status} in {kind}: {body[:200]!r}")
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise Wrong(f"{status} with a body that is not JSON: {error}") from error
    if kind == "application/problem+json":
        if answer.get("status") != status or "code" not in answer:
            raise Wrong(f"{status} with a problem that says {answer}")
        return
    errors = answer.get("errors", [])
    if "data" not in answer and not errors:
        raise Wrong(f"{status} with neither data nor errors: {body[:200]!r}")
    if any(error.get("extensions", {}).get("code") in (None, "INTERNAL") for error in errors):
        raise Wrong(f"an error without a code of ours: {errors[:2]}")


def nested(levels, opening, closing, middle):
    return opening * levels + middle + closing * levels


def cases(shop):
    """What has a name."""
    yield from too_much()
    yield from fragments()
    yield from inputs()
    yield from introspection()
    yield from bodies()
    yield from transports(shop)


def too_much():
    for levels in (5, 12, 13, 60, 10_000):
        query = "{ orders { nodes { " + nested(levels, "payment { order { ", "} } ", "id ") + "} } }"
        yield Case(f"depth {levels}", EITHER if levels < 6 else REFUSED, question(query))
    for levels in (64, 65, 20_000, 120_000):
        yield Case(f"{levels} open brackets", REFUSED, question("{" * levels))
        yield Case(f"{levels} open lists", REFUSED, question("{ me(a: " + "[" * levels))
    for count in (50, 51, 5_000, 20_000):
        aliases = " ".join(f"a{n}: id" for n in range(count))
        expected = ANSWERED if count <= 50 else REFUSED | {413}
        yield Case(f"{count} aliases", expected, question("{ product(id: \"" + COFFEE + "\") { " + aliases + " } }"))
    for count in (21, 4_000):
        fields = " ".join(f"a{n}: me {{ id }}" for n in range(count))
        yield Case(f"{count} root fields", REFUSED, question("{ " + fields + " }"))
    for count in (21, 8_000):
        directives = " @include(if: true)" * count
        yield Case(f"{count} directives", REFUSED, question("{ me" + directives + " { id } }"))
    yield Case("a directive that there is not", REFUSED, question("{ me @nothing(x: [1]) { id } }"))
    yield Case("1000 operations", REFUSED, question(" ".join(f"query Q{n} {{ me {{ id }} }}" for n in range(1_000))))
    wide = "{ orders(first: 100) { nodes { lines { product { seller { balanceEntries(first: 100) { nodes { at } } } } } } } }"
    yield Case("a page of pages", REFUSED, question(wide))
    yield Case("250 KiB of commas", REFUSED, question("{ me { id } " + "," * 250_000 + " nothing }"))
    yield Case("250 KiB of comments", REFUSED, question("#" * 250_000))
    yield Case("a name of 200 KiB", REFUSED, question("{ " + "a" * 200_000 + " }"))


def fragments():
    yield Case("a fragment in itself", REFUSED, question("{ ...A } fragment A on Query { ...A }"))
    yield Case("two fragments in each other", REFUSED, question("{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }"))
    yield Case("a cycle that nothing spreads", REFUSED, question("{ me { id } } fragment A on Query { ...A }"))
    yield Case("a cycle through a field", REFUSED, question("{ me { ...A } } fragment A on Account { balanceEntries { nodes { order { buyer { ...A } } } } }"))
    yield Case("a fragment that there is not", REFUSED, question("{ ...Nothing }"))
    doubling = " ".join(f"fragment F{n} on Query {{ ...F{n + 1} ...F{n + 1} }}" for n in range(28))
    yield Case("fragments that double 28 times", REFUSED, question("{ ...F0 } " + doubling + " fragment F28 on Query { me { id } }"))
    chain = " ".join(f"fragment F{n} on Query {{ ...F{n + 1} }}" for n in range(5_000))
    yield Case("a chain of 5000 fragments", REFUSED, question("{ ...F0 } " + chain + " fragment F5000 on Query { me { id } }"))
    yield Case("inline fragments in each other", REFUSED, question("{ " + nested(2_000, "... { ", "} ", "me { id } ") + "}"))


def inputs():
    search = "query S($s: String, $n: Int) { products(search: $s, first: $n) { nodes { id } } }"
    for size in (1_000, 200_000):
        yield Case(f"a variable of {size} bytes", EITHER, question(search, {"s": "x" * size}))
    yield Case("a variable of 300 KiB", {413}, question(search, {"s": "x" * 300_000}))
    yield Case("a body of 8 MiB", {413}, question(search, {"s": "x" * (8 << 20)}))
    yield Case("10000 variables", EITHER, question("{ me { id } }", {f"v{n}": n for n in range(10_000)}))
    deep = json.dumps({"query": search, "variables": {"s": "@"}}).replace('"@"', nested(20_000, "[", "]", "1")).encode()
    yield Case("a variable 20000 deep", REFUSED, deep)
    objects = json.dumps({"query": search, "variables": {"s": "@"}}).replace('"@"', nested(10_000, '{"a":', "}", "1")).encode()
    yield Case("an object 10000 deep", REFUSED, objects)
    for levels in (20, 10_000):
        yield Case(f"an input {levels} deep", REFUSED, question("{ products(search: " + nested(levels, "{a: ", "}", "1") + ") { nodes { id } } }"))
    for value in (0, -1, 101, 2**31, 2**63, 2**64, 10**400, 0.5, 1e308, "1", True, [], {}, "한글"):
        yield Case(f"first = {str(value)[:20]!r}", EITHER, question(search, {"n": value}))
    for literal in ("1e999", "-0", "00", "0x1", "1.", "9" * 4_000, "null", "PLACED", '"\\u0000"', '"\\ud800"', '"""\\"""'):
        yield Case(f"first: {literal[:20]}", EITHER, question("{ products(first: " + literal + ") { nodes { id } } }"))
    for after in ("", "x", "bzE6MTow", "A" * 100_000, "\u0000", "../../etc/passwd", "' OR 1=1 --", "%00", "\U0010ffff"):
        yield Case(f"after = {after[:20]!r}", EITHER, question("query A($a: String) { products(after: $a) { nodes { id } } }", {"a": after}))
        yield Case(f"search = {after[:20]!r}", EITHER, question(search, {"s": after}))
        yield Case(f"id = {after[:20]!r}", EITHER, question("query I($i: ID!) { product(id: $i) { id } node(id: $i) { id } }", {"i": after}))


def introspection():
    fields = "name fields { name type { name } } "
    yield Case("the whole schema", ANSWERED, question("{ __schema { types { " + fields + "} directives { name } } }"))
    yield Case("a schema 40 deep", REFUSED, question("{ __schema { types { fields { type { " + nested(40, "ofType { ", "} ", "name ") + "} } } } }"))
    for loops in (8, 9, 1_000):
        expected = ANSWERED if loops < 9 else REFUSED
        yield Case(f"a schema that loops {loops} times", expected, question("{ __schema { types { " + nested(loops, "fields { type { ", "} } ", "name ") + "} } }"))
    yield Case("ten schemas", REFUSED, question("{ " + " ".join(f"s{n}: __schema {{ types {{ name }} }}" for n in range(10)) + " }"))


def bodies():
    for name, body in {
        "nothing": b"",
        "null": b"null",
        "a number": b"7",
        "a string": b'"{ me { id } }"',
        "an empty object": b"{}",
        "an empty batch": b"[]",
        "a batch": b"[" + b",".join([question("{ me { id } }")] * 1_000) + b"]",
        "a batch behind spaces": b" \n\t[" + question("{ me { id } }") + b"]",
        "null for the question": b'{"query":null}',
        "a number for the question": b'{"query":1}',
        "a list for the variables": b'{"query":"{ me { id } }","variables":[1]}',
        "a text for the variables": b'{"query":"{ me { id } }","variables":"{}"}',
        "the question twice": b'{"query":"{ me { id } }","query":"{ __typename }"}',
        "an operation that there is not": b'{"query":"query A { me { id } }","operationName":"B"}',
        "bad UTF-8": b'{"query":"{ me { id } } \xff\xfe\x80"}',
        "an overlong slash": b'{"query":"\xc0\xaf"}',
        "half a character": b'{"query":"\xed\xa0\x80"}',
        "UTF-16": question("{ me { id } }").decode().encode("utf-16"),
        "half a surrogate pair": b'{"query":"{ products(search: \\"\\ud800\\") { nodes { id } } }"}',
        "zero bytes": b"\x00" * 1_000,
        "an object that does not end": b'{"query":"{ me { id } }"',
        "a body behind the body": question("{ me { id } }") + question("{ me { id } }"),
        "200000 brackets": b"[" * 200_000,
        "a mutation": question("mutation { pay }"),
        "a subscription": question("subscription { orderChanged(id: 1) { id } }"),
        "a type": question("type Query { me: Int }"),
    }.items():
        yield Case(name, REFUSED, body)
    yield Case("a byte order mark", EITHER, b"\xef\xbb\xbf" + question("{ __typename }"))
    for control in range(0x20):
        yield Case(f"the control character {control:#x}", EITHER, question("{ me { id } }" + chr(control)))


def transports(shop):
    asked = question("{ __typename }")
    for content in ("", "text/plain", "application/graphql", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "application/jsonx", "*/*"):
        yield Case(f"content type {content!r}", {415}, asked, headers={"Content-Type": content})
    yield Case("no content type", {415}, asked, headers={})
    yield Case("JSON in Latin-1", EITHER | {415}, asked, headers={"Content-Type": "application/json; charset=latin1"})
    squeezed = gzip.compress(question("{ me { id } }" + " " * 1_000_000))
    yield Case("a squeezed body", {400, 413, 415}, squeezed, headers={"Content-Type": "application/json", "Content-Encoding": "gzip"})
    for accept in ("text/html", "application/xml;q=0.9", ",", "nothing" * 1_000):
        yield Case(f"accept {accept[:20]!r}", {200, 406}, asked, headers={"Content-Type": "application/json", "Accept": accept})
    for token in ("Bearer", "Bearer ", "Basic YTpi", "Bearer a.b.c", "bearer " + "x" * 8_000, shop.tokens["BUYER"]):
        yield Case(f"authorization {token[:12]!r}", {401}, asked, headers={"Content-Type": "application/json", "Authorization": token})
    for token in ("", "7", "0." * 100, "00000000000000000000000000000000.0.1", "x" * 8_000):
        yield Case(f"consistency token {token[:12]!r}", {400}, asked, headers={"Content-Type": "application/json", "Consistency-Token": token})
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE"):
        yield Case(f"method {method}", {405}, asked, method=method)
        yield Case(f"method {method} for the page", {405}, asked, method=method, path="/graphiql")
    yield Case("method HEAD", {200, 400, 405}, method="HEAD", json_answer=False)
    get = lambda query: "/graphql?" + urllib.parse.urlencode(query)
    yield Case("a question in the path", ANSWERED, method="GET", path=get({"query": "{ __typename }"}))
    yield Case("no question in the path", REFUSED, method="GET")
    yield Case("variables in the path that are none", REFUSED, method="GET", path=get({"query": "{ __typename }", "variables": "{{"}))
    yield Case("bad UTF-8 in the path", REFUSED, method="GET", path="/graphql?query=%ff%fe%80")
    yield Case("half an escape in the path", REFUSED, method="GET", path="/graphql?query=%7b%2")
    for size in (60_000, 300_000):
        path = get({"query": "{ __typename }" + " " * size})
        yield Case(f"a path of {size} bytes", {200, 400, 413, 414, 431}, method="GET", path=path, json_answer=False)
    for path in ("/graphql/", "/graphql/ws", "/graphql/stream", "/graphql/%00"):
        yield Case(f"path {path}", {400, 404, 405, 406, 415, 426}, asked, path=path)


def random_questions(shop, chance):
    """Questions of the schema's own words, most of them right; then broken in places."""
    _, answer = shop.ask("{ __schema { queryType { name } types { kind name fields { name args { name type { kind name ofType { kind name ofType { name } } } } "
                         "type { kind name ofType { kind name ofType { kind name ofType { kind name } } } } } enumValues { name } } } }")
    types = {kind["name"]: kind for kind in answer["data"]["__schema"]["types"]}

    def named(kind):
        while kind.get("ofType"):
            kind = kind["ofType"]
        return kind["name"]

    def value(kind):
        known = types.get(named(kind), {})
        if known.get("enumValues"):
            return chance.choice(known["enumValues"])["name"]
        return chance.choice(['"%s"' % COFFEE, '"x"', "1", "5", "-1", "null", "true", '""', "100", '"2026112100000001"', "$v", "[1]", "{a: 1}"])

    def selection(name, depth):
        fields = types[name].get("fields") or []
        if not fields or depth > 5:
            return "{ __typename }"
        parts = []
        for field in chance.sample(fields, k=min(len(fields), chance.randint(1, 4))):
            alias = chance.choice(["", "", "", f"a{chance.randint(0, 3)}: "])
            given = [f"{arg['name']}: {value(arg['type'])}" for arg in field["args"] if chance.random() < 0.8]
            below = named(field["type"])
            inner = selection(below, depth + 1) if types.get(below, {}).get("fields") else ""
            parts.append(f"{alias}{field['name']}{'(' + ', '.join(given) + ')' if given else ''} {inner}")
        return "{ " + " ".join(parts) + " }"

    def broken(text):
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(text))
            text = chance.choice([
                text[:place] + text[place + 1:],
                text[:place] + chance.choice('{}[]()"\\#@$!:=|&,\u0000\ufeff한') + text[place:],
                text[:place] + text[place:place + 20] * chance.randint(2, 40) + text[place:],
            ])
        return text

    for number in range(RANDOM_QUESTIONS):
        text = ("query Q($v: String) " if chance.random() < 0.3 else "") + selection("Query", 0)
        if chance.random() < 0.4:
            text = broken(text)
        role = chance.choice([None, "BUYER", "SELLER", "ADMIN"])
        yield Case(f"random question {number}", EITHER, question(text, {"v": "x"}), headers=json_headers(shop, role))


def frames():
    """What may come after the handshake of a WebSocket (RFC 6455), none of it right."""
    mask = b"\x01\x02\x03\x04"

    def text(payload):
        length = len(payload)
        head = bytes([0x81, 0x80 | length]) if length < 126 else bytes([0x81, 0xFE]) + length.to_bytes(2, "big")
        return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))

    yield "no mask", b"\x81\x02{}"
    yield "a reserved opcode", b"\x83\x80" + mask
    yield "reserved bits", b"\xf1\x80" + mask
    yield "a frame of 2^63 bytes", b"\x81\xff" + (2**63 - 1).to_bytes(8, "big") + mask + b"x" * 1_000
    yield "a ping in fragments", b"\x09\x80" + mask
    yield "a ping of 1000 bytes", b"\x89\xfe" + (1_000).to_bytes(2, "big") + mask + b"x" * 1_000
    yield "a continuation of nothing", b"\x80\x80" + mask
    yield "bad UTF-8", text(b"\xff\xfe")
    yield "no JSON", text(b"{")
    yield "a message without a type", text(b"{}")
    yield "a type that there is not", text(b'{"type":"nothing"}')
    yield "a subscription before the greeting", text(b'{"type":"subscribe","id":"1","payload":{"query":"subscription { __typename }"}}')
    yield "two greetings", text(b'{"type":"connection_init"}') * 2
    yield "10000 pings", (b"\x89\x80" + mask) * 10_000
    yield "zero bytes", b"\x00" * 10_000
    yield "nothing at all", b""


def check_frames(shop, frame):
    """Sends a handshake and a frame in one go: whether sockets are served or not, the server ends it or waits, and stays well."""
    host, port = shop.address.rsplit(":", 1)
    handshake = (
        f"GET /graphql/ws HTTP/1.1\r\nHost: {shop.address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
    )
    read = b""
    with socket.create_connection((host, int(port)), timeout=2.0) as connection:
        try:
            connection.sendall(handshake.encode() + frame)
            while len(read) < LARGEST_ANSWER:
                part = connection.recv(65_536)
                if not part:
                    break
                read += part
                # What comes after the first answer comes at once.
                connection.settimeout(0.2)
        except (TimeoutError, ConnectionError):
            # It ended the connection, or waits for more: either is right.
            pass
    statuses = [int(line.split()[1]) for line in read.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    if not statuses or statuses[0] not in {101, 400, 404, 426} or any(status >= 500 for status in statuses):
        raise Wrong(f"answered {statuses}: {read[:200]!r}")


def check_crowd(shop):
    """A hundred questions at once, each as large as is allowed."""
    fields = "id version sku name description price { amount currency } seller { id } inventory { onHand reserved available unlimited }"
    body = question("{ products(first: 100) { nodes { " + fields + " } pageInfo { endCursor } } }")
    crowd = [Case("a crowd", ANSWERED, body) for _ in range(400)]
    with concurrent.futures.ThreadPoolExecutor(max_workers=100) as pool:
        for result in [pool.submit(case.check, shop) for case in crowd]:
            result.result()


def check_half_bodies(shop):
    """Fifty senders that stop in the middle of a body and go away."""
    host, port = shop.address.rsplit(":", 1)
    head = f"POST /graphql HTTP/1.1\r\nHost: {shop.address}\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n".encode()
    connections = [socket.create_connection((host, int(port)), timeout=2.0) for _ in range(50)]
    for connection in connections:
        connection.sendall(head + b'{"query":"')
    Case("a question between them", ANSWERED, question("{ __typename }")).check(shop)
    for connection in connections:
        connection.close()


def check_memory(shop, before):
    grown = shop.memory_mib() - before
    if grown > LARGEST_GROWTH_MIB:
        raise Wrong(f"{grown} MiB more than before, at most {LARGEST_GROWTH_MIB} are right")


def check_sale(shop):
    """An order is still sold, and shown."""
    body = {
        "lines": [{"productId": COFFEE, "quantity": 1}],
        "shippingAddress": {"recipient": "김민지", "street": "세종대로 110", "city": "서울", "postalCode": "04524"},
        "payment": {"method": "CARD", "paymentKey": "sim_ok_after_the_storm"},
    }
    headers = json_headers(shop, "BUYER") | {"Idempotency-Key": f"after-the-storm-{time.time_ns()}", "Prefer": "wait=4"}
    status, answered, read = shop.send("POST", "/api/v1/orders", headers, json.dumps(body).encode())
    order = json.loads(read)
    if (status, order.get("status")) != (200, "CONFIRMED"):
        raise Wrong(f"an order ended as {status} {read[:300]!r}")
    headers = json_headers(shop, "BUYER") | {"Consistency-Token": answered["Consistency-Token"]}
    _, _, read = shop.send("POST", "/graphql", headers, question("query O($id: ID!) { order(id: $id) { status } }", {"id": order["orderId"]}))
    if json.loads(read).get("data") != {"order": {"status": "CONFIRMED"}}:
        raise Wrong(f"the order is shown as {read[:300]!r}")


def main():
    address, pid, tokens = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    shop = Shop(address, pid, tokens)
    shop.ask("{ products { nodes { id } } }")
    before = shop.memory_mib()
    passed, failed = 0, 0
    chance = random.Random(SEED)

    def attempt(name, check, curl=None):
        nonlocal passed, failed
        try:
            check()
            passed += 1
        except (Wrong, OSError) as error:
            failed += 1
            if failed <= 20:
                print(f"graphql: {name} ... FAILED\n  {error}" + (f"\n  {curl()}" if curl else ""))

    for case in [*cases(shop), *random_questions(shop, chance)]:
        attempt(case.name, lambda case=case: case.check(shop), lambda case=case: case.curl(address))
    for name, frame in frames():
        attempt(f"a socket: {name}", lambda frame=frame: check_frames(shop, frame))
    attempt("a crowd", lambda: check_crowd(shop))
    attempt("half bodies", lambda: check_half_bodies(shop))
    attempt("memory", lambda: check_memory(shop, before))
    attempt("a sale", lambda: check_sale(shop))
    print(f"test result: {'FAILED' if failed else 'ok'}. {passed} passed; {failed} failed; questions, seed {SEED}; memory {before} -> {shop.memory_mib()} MiB")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
