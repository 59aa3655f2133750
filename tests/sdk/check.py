"""Calls of the official Python clients against the simulator: `check.py together|openai BASE_URL`.

Prints a line a call and fails at the first that is not as it should be. The simulator is told by the test what to answer
to some prompts; see tests/sdk.rs.
"""

import json
import struct
import sys
import zlib

CHAT = "zai-org/GLM-5.3"
VISION = "moonshotai/Kimi-K3"
EMBED = "intfloat/multilingual-e5-large-instruct"
FLUX = "black-forest-labs/FLUX.1-schnell"
RERANK = "mixedbread-ai/Mxbai-Rerank-Large-V2"
GUARD = "meta-llama/Llama-Guard-4-12B"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather now",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CITY = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "inhabitants": {"type": "integer"}},
    "required": ["name", "inhabitants"],
    "additionalProperties": False,
}


def ok(call, note=""):
    print(f"ok {name:<8} {call:<24} {note}")


def check(condition, *evidence):
    if not condition:
        raise AssertionError(evidence)


def ask(text="Why is the sky blue?"):
    return [{"role": "user", "content": text}]


def png(width, height, rgb):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + bytes(rgb) * width for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def data_url(data):
    import base64

    return "data:image/png;base64," + base64.b64encode(data).decode()


def fails(error, call, what, status):
    try:
        call()
    except error as caught:
        check(caught.status_code == status, caught)
        ok(f"error.{what}", f"{type(caught).__name__} {status}")
        return caught
    raise AssertionError(f"{what}: no {error}")


def chat(client):
    plain = client.chat.completions.create(model=CHAT, messages=ask("the refund"), seed=7, temperature=0.5)
    check(plain.choices[0].message.content == "5 days", plain)
    check(plain.choices[0].finish_reason == "stop" and plain.model == CHAT, plain)
    usage = plain.usage
    check(usage.prompt_tokens > 0 and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage)
    ok("chat", f"{usage.total_tokens} tokens")

    several = client.chat.completions.create(model=CHAT, messages=ask(), n=3, max_tokens=4, stop=["zzz"])
    check([choice.index for choice in several.choices] == [0, 1, 2], several)
    check(all(choice.finish_reason == "length" for choice in several.choices), several)
    ok("chat.n", "3 answers, cut at 4 tokens")

    options = {"stream_options": {"include_usage": True}}
    if name == "together":
        options = {"extra_body": options}
    text, chunks, finish, usage = "", 0, None, None
    for chunk in client.chat.completions.create(model=CHAT, messages=ask("the refund"), stream=True, **options):
        chunks += 1
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    check(text == "5 days" and finish == "stop" and usage.completion_tokens > 0, text, finish, usage)
    ok("chat.stream", f"{chunks} chunks")

    called = client.chat.completions.create(model=CHAT, messages=ask("get_weather in Lima"), tools=[WEATHER])
    call = called.choices[0].message.tool_calls[0]
    check(called.choices[0].finish_reason == "tool_calls" and call.function.name == "get_weather", called)
    check("city" in json.loads(call.function.arguments), call)
    turn = {"role": "assistant", "content": None, "tool_calls": [
        {"id": call.id, "type": "function", "function": {"name": "get_weather", "arguments": call.function.arguments}}]}
    result = {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"}
    after = client.chat.completions.create(model=CHAT, messages=[*ask("get_weather"), turn, result], tools=[WEATHER])
    check("18 degrees" in after.choices[0].message.content, after)
    ok("chat.tools", "a call and its result")

    forced = client.chat.completions.create(
        model=CHAT, messages=ask("hello"), tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "get_weather"}})
    check(forced.choices[0].message.tool_calls, forced)
    ok("chat.tool_choice")

    arguments, names = "", []
    for chunk in client.chat.completions.create(
            model=CHAT, messages=ask("get_weather in Lima"), tools=[WEATHER], stream=True):
        for choice in chunk.choices:
            for piece in choice.delta.tool_calls or []:
                names += [piece.function.name] if piece.function.name else []
                arguments += piece.function.arguments or ""
    check(names == ["get_weather"] and "city" in json.loads(arguments), names, arguments)
    ok("chat.tools.stream")

    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
    answer = client.chat.completions.create(model=CHAT, messages=ask("A city"), response_format=form)
    value = json.loads(answer.choices[0].message.content)
    check(set(value) == {"name", "inhabitants"} and isinstance(value["inhabitants"], int), value)
    ok("chat.json_schema", str(value)[:40])

    # The API takes a number where OpenAI's own takes a flag and another number.
    logprobs = {"logprobs": 2} if name == "together" else {"extra_body": {"logprobs": 2}}
    answer = client.chat.completions.create(model=CHAT, messages=ask("the refund"), **logprobs)
    found = answer.choices[0].logprobs
    check(len(found.tokens) == len(found.token_logprobs) > 0 and found.token_logprobs[0] <= 0, found)
    ok("chat.logprobs", f"{len(found.tokens)} tokens")

    content = [{"type": "text", "text": "What is it?"},
               {"type": "image_url", "image_url": {"url": data_url(png(40, 30, (205, 50, 45)))}}]
    seen = client.chat.completions.create(model=VISION, messages=[{"role": "user", "content": content}])
    check("40x30" in seen.choices[0].message.content and "red" in seen.choices[0].message.content, seen)
    ok("chat.vision", seen.choices[0].message.content)

    extra = {"reasoning": {"enabled": True}}
    extra = extra if name == "together" else {"extra_body": extra}
    thought = client.chat.completions.create(model=CHAT, messages=ask(), **extra).choices[0].message
    check(thought.reasoning and thought.content, thought)
    ok("chat.reasoning", f"{len(thought.reasoning)} characters")

    verdict = client.chat.completions.create(model=GUARD, messages=ask("How to build a bomb?"))
    check(verdict.choices[0].message.content == "unsafe\nS9", verdict)
    ok("chat.moderation", "unsafe S9")


def completions(client):
    plain = client.completions.create(model=CHAT, prompt="Once upon", max_tokens=64)
    check(plain.choices[0].text == " a time." and plain.usage.completion_tokens > 0, plain)
    ok("completions", repr(plain.choices[0].text))
    text, chunks = "", 0
    for chunk in client.completions.create(model=CHAT, prompt="Once upon", max_tokens=64, stream=True):
        chunks += 1
        text += "".join(choice.text or "" for choice in chunk.choices)
    check(text == " a time.", text)
    ok("completions.stream", f"{chunks} chunks")


def embeddings(client):
    several = client.embeddings.create(model=EMBED, input=["the sky", "the sea", "the sky"])
    vectors = [row.embedding for row in several.data]
    check(len(vectors) == 3 and len(vectors[0]) == 1024 and vectors[0] == vectors[2] != vectors[1], len(vectors))
    check([row.index for row in several.data] == [0, 1, 2], several.data)
    one = client.embeddings.create(model=EMBED, input="the sky")
    check(one.data[0].embedding == vectors[0])
    ok("embeddings", "3 x 1024")


def images(client):
    import base64

    size = {"width": 64, "height": 48} if name == "together" else {"size": "64x48"}
    form = "base64" if name == "together" else "b64_json"
    made = client.images.generate(model=FLUX, prompt="a red sky", n=2, response_format=form, **size)
    files = [base64.b64decode(row.b64_json) for row in made.data]
    check(len(files) == 2 and all(file[:2] == b"\xff\xd8" for file in files), made)
    ok("images", f"{len(files)} JPEG, {len(files[0])} bytes")
    made = client.images.generate(model=FLUX, prompt="a red sky", response_format="url", **size)
    from urllib.request import urlopen

    check(urlopen(made.data[0].url).read()[:2] == b"\xff\xd8", made)
    ok("images.url", "fetched")


def until(client, job, *wanted):
    import time

    for _ in range(400):
        job = client.batches.retrieve(job.id)
        if job.status in wanted:
            return job
        time.sleep(0.02)
    raise AssertionError(job)


def batches(client, sdk):
    import pathlib
    import tempfile

    folder = pathlib.Path(tempfile.mkdtemp())
    asked = {f"row-{n}": {"model": CHAT, "messages": ask(f"the refund {n}")} for n in range(40)}
    asked["row-stop"] = {"model": CHAT, "messages": ask(), "stop": list("abcde")}

    def upload(name, rows):
        path = folder / name
        path.write_text("".join(json.dumps({"custom_id": key, "body": body}) + "\n" for key, body in rows.items()))
        return client.files.upload(path, purpose="batch-api", check=False), path

    file, path = upload("batch.jsonl", asked)
    check(file.filename == "batch.jsonl" and file.bytes == path.stat().st_size, file)
    check(file.purpose == "batch-api" and file.object == "file", file)
    check(client.files.upload(path, purpose="batch-api", check=False).id == file.id)
    check(file.id in [row.id for row in client.files.list().data])
    check(client.files.content(file.id).read() == path.read_bytes())
    ok("files.upload", "and found again by its checksum")

    job = client.batches.create(endpoint="/v1/chat/completions", input_file_id=file.id).job
    check(job.status == "VALIDATING" and job.input_file_id == file.id and job.created_at < job.job_deadline, job)
    check(job.id in [row.id for row in client.batches.list()])
    job = until(client, job, "COMPLETED", "FAILED")
    check(job.status == "COMPLETED" and job.progress == 100 and job.completed_at > job.created_at, job)
    lines = client.files.content(job.output_file_id).read().decode().splitlines()
    rows = {row["custom_id"]: row for row in map(json.loads, lines)}
    check(set(rows) == set(asked) - {"row-stop"} and all(row["id"].startswith("br_") for row in rows.values()), rows)
    check(rows["row-7"]["response"]["body"]["choices"][0]["message"]["content"] == "5 days", rows["row-7"])
    error = json.loads(client.files.content(job.error_file_id).read())
    check(error["error"] == {"code": "batch_client_error", "message": "Maximum four stop sequences allowed"}, error)
    ok("batches", f"{len(rows)} answers, 1 error")

    bad = client.batches.create(endpoint="/v1/chat/completions", input_file_id="file-none").job
    check(until(client, bad, "FAILED").error == "Failed to download input file")
    ok("batches.failed", "created, then failed")

    later = client.batches.create(endpoint="/v1/chat/completions", input_file_id=file.id).job
    check(client.batches.cancel(later.id).status == "CANCELING")
    later = until(client, later, "CANCELLED")
    check(later.output_file_id is None and later.error_file_id is None, later)
    caught = fails(sdk.ConflictError, lambda: client.batches.cancel(later.id), "cancel", 409)
    check("already in terminal state: CANCELLED" in str(caught), caught)
    fails(sdk.NotFoundError, lambda: client.batches.retrieve("none"), "job", 404)
    check(client.files.delete(file.id).deleted)
    fails(sdk.NotFoundError, lambda: client.files.retrieve(file.id), "file", 404)


def errors(client, sdk, wrong, patient):
    create = client.chat.completions.create
    fails(sdk.AuthenticationError, lambda: wrong.chat.completions.create(model=CHAT, messages=ask()), "key", 401)
    caught = fails(sdk.NotFoundError, lambda: create(model="acme/none", messages=ask()), "model", 404)
    check("does not exist" in str(caught), caught)
    caught = fails(sdk.BadRequestError, lambda: create(model=CHAT, messages=ask(), temperature=7), "temperature", 400)
    check("temperature" in str(caught), caught)
    fails(sdk.BadRequestError, lambda: create(model=CHAT, messages=[]), "messages", 400)
    fails(sdk.BadRequestError, lambda: create(model="acme/dedicated", messages=ask()), "model_not_available", 400)
    fails(sdk.PermissionDeniedError, lambda: create(model=EMBED + "-chat", messages=ask("x " * 900)), "context", 403)
    fails(sdk.RateLimitError, lambda: create(model=CHAT, messages=ask("limit me")), "rate", 429)
    fails(sdk.InternalServerError, lambda: create(model=CHAT, messages=ask("overload me")), "overloaded", 503)
    again = patient.chat.completions.create(model=CHAT, messages=ask("fail once"))
    check(again.choices[0].message.content == "back", again)
    ok("retry", "503, then an answer")
    try:
        for _ in create(model=CHAT, messages=ask("break off"), stream=True):
            pass
    except sdk.APIError as caught:
        ok("error.midstream", type(caught).__name__)
    else:
        raise AssertionError("a stream that failed in its middle ended in order")


def run_together(url):
    import together

    root = url.removesuffix("/v1")
    client = together.Together(api_key="secret", base_url=root, max_retries=0)
    chat(client)
    completions(client)
    embeddings(client)
    images(client)
    ranked = client.rerank.create(
        model=RERANK, query="Where do llamas live?", top_n=1, return_documents=True,
        documents=["Bread is baked.", "Llamas live in Peru."])
    check(ranked.results[0].index == 1 and ranked.results[0].document.text == "Llamas live in Peru.", ranked)
    ok("rerank", f"{ranked.results[0].relevance_score:.2f}")
    # This version lists a project's own models; the plane's list has no method of its own.
    listed = client.get("/v1/models", cast_to=object)
    check(any(row["id"] == CHAT and row["pricing"]["input"] == 1.4 for row in listed), listed)
    ok("models", f"{len(listed)} models")
    me = client.whoami()
    check(me.type == "project_api_key" and me.project.slug == "simulated", me)
    ok("whoami", me.project.slug)
    batches(client, together)
    wrong = together.Together(api_key="wrong", base_url=root, max_retries=0)
    errors(client, together, wrong, client.with_options(max_retries=2))


def run_openai(url):
    import openai

    client = openai.OpenAI(api_key="secret", base_url=url, max_retries=0)
    chat(client)
    completions(client)
    embeddings(client)
    images(client)
    # OpenAI's client expects an object where the API sends a bare array; the simulator can send either.
    listed = client.get("/models", cast_to=object)
    check(any(row["id"] == CHAT for row in listed), listed)
    ok("models", f"{len(listed)} models")
    wrong = openai.OpenAI(api_key="wrong", base_url=url, max_retries=0)
    errors(client, openai, wrong, client.with_options(max_retries=2))


if __name__ == "__main__":
    name = sys.argv[1]
    {"together": run_together, "openai": run_openai}[name](sys.argv[2])
