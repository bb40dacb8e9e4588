"""Drives a server with OpenAI's own client: python3 openai_client.py BASE_URL MODEL TOKEN."""

import sys

import openai

base_url, model, token = sys.argv[1:]
client = openai.OpenAI(base_url=base_url, api_key=token, max_retries=0, timeout=120)


def refuses(error, **changed):
    request = {"model": model, "prompt": "The old house", "max_tokens": 4} | changed
    try:
        client.completions.create(**request)
    except error as raised:
        return raised
    raise AssertionError(f"{changed} was accepted")


assert [m.id for m in client.models.list()] == [model]

# A completion, and the same as a stream.
whole = client.completions.create(model=model, prompt="The old house", max_tokens=24, temperature=0)
assert whole.usage.completion_tokens == 24 and whole.choices[0].finish_reason == "length", whole
pieces, last = [], None
for event in client.completions.create(
    model=model, prompt="The old house", max_tokens=24, temperature=0, stream=True, stream_options={"include_usage": True}
):
    if event.choices:
        pieces.append(event.choices[0].text)
        last = event.choices[0].finish_reason
    else:
        assert event.usage == whole.usage
assert len(pieces) > 5 and "".join(pieces) == whole.choices[0].text and last == "length", pieces

# A seed makes a text; several choices of one prompt differ.
drawn = [client.completions.create(model=model, prompt="The", max_tokens=12, temperature=1, seed=5, n=3) for _ in range(2)]
texts = [choice.text for choice in drawn[0].choices]
assert texts == [choice.text for choice in drawn[1].choices] and len(set(texts)) == 3, texts

# A stop string ends the text and is no part of it, also in a stream.
stop = whole.choices[0].text[10:14]
cut = client.completions.create(model=model, prompt="The old house", max_tokens=24, temperature=0, stop=[stop, "never"])
assert cut.choices[0].text == whole.choices[0].text.split(stop)[0] and cut.choices[0].finish_reason == "stop", cut

# Prompts as text and as token ids, alone and in batches, are the same.
ids = client.post("/../tokenize", body={"prompt": "The old house"}, cast_to=dict)["tokens"]
batch = client.completions.create(model=model, prompt=[ids, ids[:2]], max_tokens=24, temperature=0)
assert [choice.index for choice in batch.choices] == [0, 1] and batch.choices[0].text == whole.choices[0].text

# The prompt is told with its log-probabilities.
echo = client.completions.create(model=model, prompt=ids, max_tokens=1, temperature=0, logprobs=2, echo=True).choices[0]
probabilities = echo.logprobs
assert len(probabilities.token_logprobs) == len(ids) + 1 and probabilities.token_logprobs[0] is None
assert probabilities.top_logprobs[0] is None and all(len(top) >= 2 for top in probabilities.top_logprobs[1:])
assert probabilities.token_logprobs[-1] == max(probabilities.top_logprobs[-1].values())
assert "".join(probabilities.tokens) == echo.text and echo.text.startswith("The old house")
assert probabilities.text_offset[0] == 0 and probabilities.text_offset == sorted(probabilities.text_offset)
only = client.completions.create(model=model, prompt=ids, max_tokens=0, logprobs=0, echo=True).choices[0]
assert only.text == "The old house" and only.logprobs.token_logprobs == probabilities.token_logprobs[:-1]

# A chat, and the same as a stream.
messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Who?"}]}]
chat = client.chat.completions.create(
    model=model, messages=messages, max_completion_tokens=16, temperature=0, logprobs=True, top_logprobs=2
)
answer = chat.choices[0]
assert answer.message.role == "assistant" and answer.message.content, chat
assert len(answer.logprobs.content) == chat.usage.completion_tokens and len(answer.logprobs.content[0].top_logprobs) == 2
deltas = []
for event in client.chat.completions.create(
    model=model, messages=messages, max_completion_tokens=16, temperature=0, stream=True
):
    deltas.append(event.choices[0].delta.content or "")
assert "".join(deltas) == answer.message.content and len(deltas) > 5, deltas

# What cannot be is refused.
assert refuses(openai.NotFoundError, model="../../etc/passwd").status_code == 404
for changed in [
    {"max_tokens": -1},
    {"max_tokens": 10**18},
    {"temperature": -1},
    {"n": 10**9},
    {"stop": ["x"] * 10**4},
    {"prompt": []},
    {"prompt": [[1], [10**9]]},
    {"prompt": [1] * 5000},
    {"logit_bias": {"5": 1}},
    {"extra_body": {"unknown": 1}},
]:
    error = refuses(openai.BadRequestError, **changed)
    assert error.body["message"] and error.body["type"] == "invalid_request_error", error
try:
    openai.OpenAI(base_url=base_url, api_key="wrong", max_retries=0).models.list()
    raise AssertionError("a wrong token was accepted")
except openai.AuthenticationError:
    pass
print("openai client: passed")
