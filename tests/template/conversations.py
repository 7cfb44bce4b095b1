"""Conversations for the corpus, and seeded random ones."""

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Weather <now> & \"here\"", "parameters": {
        "type": "object", "required": ["city"], "properties": {
            "city": {"type": "string", "description": "Zürich, 東京"},
            "unit": {"type": "string", "enum": ["c", "f"]},
            "days": {"type": "array", "items": {"type": "integer"}},
            "where": {"type": "object", "properties": {"lat": {"type": "number"}, "lon": {"type": ["number", "null"]}}},
            "mode": {"oneOf": [{"type": "boolean"}, {"type": "string"}]}}}}}

FIXED = [
    {"messages": [{"role": "user", "content": "Hello"}], "add_generation_prompt": True},
    {"messages": [{"role": "system", "content": "  Be brief.\n"}, {"role": "user", "content": "Hi <|im_end|> there"},
                  {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes?"},
                  {"role": "user", "content": "Ünï ☃ 😀\n\n"}], "add_generation_prompt": True,
     "variables": {"enable_thinking": False, "reasoning_effort": "low"}},
    {"messages": [{"role": "user", "content": "Weather?"},
                  {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {
                      "name": "get_weather", "arguments": {"city": "Köln", "days": [1, 2.5, None, True]}}}]},
                  {"role": "tool", "content": "{\"t\": 20}"}, {"role": "assistant", "content": "20 degrees."}],
     "variables": {"tools": [WEATHER]}},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning": "because"},
                  {"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "thinking": "\nwhy\n"}]},
    {"messages": [{"role": "assistant", "content": "wrong way round"}, {"role": "user", "content": "x"}]},
    {"messages": [], "add_generation_prompt": True},
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

WORDS = ["", "a", "Hello", " two  words ", "\n", "line\nline\r\n", "<think>x</think>y", "</think>", "<|im_end|>", "{{ x }}",
         "{% if %}", "é", "ß", "日本語", "😀", "'q'", '"dq"', "\\n", "\t", "<tool_response>r</tool_response>", "ΑΣ", "\u00a0",
         "%s %d", "{}", "null", "0", "tab\tend", "\u2028", "\x00"]


def random_text(rng):
    return "".join(rng.choice(WORDS) for _ in range(rng.choice([0, 1, 1, 1, 2, 3])))


def random_json(rng, depth=2):
    kind = rng.randrange(8 if depth else 6)
    if kind == 0:
        return None
    if kind == 1:
        return rng.choice([True, False])
    if kind == 2:
        return rng.choice([0, 1, -1, 2, 7, 1000000, 2**53 + 1])
    if kind == 3:
        return rng.choice([0.0, 1.0, -2.5, 1e16, 1e-5, 0.1, 123456.789, 1e300])
    if kind <= 5:
        return random_text(rng)
    if kind == 6:
        return [random_json(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {rng.choice(WORDS + ["name", "items", "a", "b"]): random_json(rng, depth - 1) for _ in range(rng.randrange(4))}


def random_schema(rng, depth=2):
    kind = rng.choice(["string", "number", "integer", "boolean", "array", "object", "odd", ["string", "null"]])
    schema = {"type": kind}
    if kind == "string" and rng.random() < 0.4:
        schema["enum"] = [random_text(rng) for _ in range(2)]
    if kind == "array" and depth and rng.random() < 0.8:
        schema["items"] = random_schema(rng, depth - 1)
    if kind == "object" and depth:
        schema["properties"] = {n: random_schema(rng, depth - 1) for n in rng.sample(["a", "b", "city", "ü"], rng.randrange(4))}
        if rng.random() < 0.5:
            schema["required"] = ["a"]
    if rng.random() < 0.3:
        schema["description"] = random_text(rng)
    return schema


def random_request(rng):
    messages = []
    if rng.random() < 0.4:
        messages.append({"role": rng.choice(["system", "developer"]), "content": random_text(rng)})
    for i in range(rng.randrange(6)):
        role = "user" if i % 2 == 0 else "assistant"
        if rng.random() < 0.1:
            role = rng.choice(["tool", "user", "assistant", "ipython", "system"])
        message = {"role": role, "content": random_text(rng)}
        if rng.random() < 0.06:
            message["content"] = rng.choice([None, [{"type": "text", "text": random_text(rng)}], 5])
        if role == "assistant" and rng.random() < 0.3:
            message[rng.choice(["reasoning_content", "thinking", "reasoning"])] = random_text(rng)
        if role == "assistant" and rng.random() < 0.25:
            arguments = rng.choice([{"city": random_text(rng)}, random_json(rng), "{\"raw\": 1}"])
            message["tool_calls"] = [{"type": "function", "function": {"name": "f" + str(j), "arguments": arguments}}
                                     for j in range(rng.randrange(1, 3))]
        if rng.random() < 0.05:
            message.pop("content")
        messages.append(message)
    variables = {}
    if rng.random() < 0.3:
        variables["tools"] = [{"type": "function", "function": {
            "name": "tool" + str(i), "description": random_text(rng),
            "parameters": {"type": "object", **({"required": ["a"]} if rng.random() < 0.5 else {}),
                           "properties": {n: random_schema(rng) for n in rng.sample(["a", "b", "c"], rng.randrange(4))}}}}
            for i in range(rng.randrange(3))]
    if rng.random() < 0.3:
        variables["enable_thinking"] = rng.choice([True, False])
    if rng.random() < 0.2:
        variables["reasoning_effort"] = rng.choice(["low", "high"])
    if rng.random() < 0.2:
        variables["extra"] = random_json(rng)
    tokens = dict(TOKENS)
    if rng.random() < 0.2:
        tokens.pop("bos_token")
    return {"messages": messages, "add_generation_prompt": rng.random() < 0.5, "variables": variables,
            "special_tokens": tokens}
