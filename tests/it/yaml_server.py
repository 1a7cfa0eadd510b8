"""Asks a YAML language server (what editors run) about files: yaml_server.py SERVER SCHEMA FILE... prints {file: [messages]}."""
import json, pathlib, subprocess, sys

server, schema, *files = sys.argv[1:]
uri = lambda path: pathlib.Path(path).resolve().as_uri()
run = subprocess.Popen([server, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

def send(**message):
    body = json.dumps({"jsonrpc": "2.0", **message}).encode()
    run.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    run.stdin.flush()

def receive():
    length = 0
    while (line := run.stdout.readline().strip()):
        name, value = line.split(b":", 1)
        if name.lower() == b"content-length":
            length = int(value)
    if not length:
        sys.exit("the server ended")
    return json.loads(run.stdout.read(length))

settings = {"yaml": {"schemas": {uri(schema): ["*.yaml", "*.json"]}, "validate": True, "schemaStore": {"enable": False}}}
send(id=1, method="initialize", params={"processId": None, "rootUri": None, "capabilities": {"workspace": {"configuration": True}}})
said, opened = {}, False
while len(said) < len(files):
    message = receive()
    if message.get("id") == 1 and "result" in message:
        send(method="initialized", params={})
        send(method="workspace/didChangeConfiguration", params={"settings": settings})
    elif message.get("method") == "workspace/configuration":
        send(id=message["id"], result=[settings.get(item.get("section")) for item in message["params"]["items"]])
        if not opened:
            opened = True
            for file in files:
                document = {"uri": uri(file), "languageId": "yaml", "version": 1, "text": open(file, errors="replace").read()}
                send(method="textDocument/didOpen", params={"textDocument": document})
    elif message.get("method") == "textDocument/publishDiagnostics":
        said[message["params"]["uri"]] = [row["message"] for row in message["params"]["diagnostics"]]
    elif "id" in message and "method" in message:
        send(id=message["id"], result=None)
run.kill()
print(json.dumps({file: said[uri(file)] for file in files}))
