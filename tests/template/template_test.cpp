// The chat template interpreter: goldens of the corpus, errors, limits, provenance, loading.
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "base/json.h"
#include "loaders/template/chat_template.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
namespace fs = std::filesystem;

namespace {

json::Value user(const std::string& content) {
  json::Value message = json::Value::object(), messages = json::Value::array();
  message.set("role", "user").set("content", content);
  messages.push_back(std::move(message));
  return messages;
}

std::string render(const std::string& source, const json::Value& variables = json::Value::object(),
                   jinja::Limits limits = {}) {
  jinja::TemplateOptions options;
  options.limits = limits;
  return jinja::make_chat_template(source, options)->render(user("Hi"), false, variables).text;
}

std::string error_of(const std::string& source, jinja::Limits limits = {}) {
  try {
    render(source, json::Value::object(), limits);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// The text with what came from the conversation in brackets.
std::string marked(const std::string& source, const std::string& content) {
  const Rendered r = jinja::make_chat_template(source)->render(user(content), false, json::Value::object());
  std::string out;
  size_t range = 0;
  uint32_t index = 0;
  for (size_t i = 0; i <= r.text.size(); ++i) {
    const bool starts = i == r.text.size() || (static_cast<unsigned char>(r.text[i]) & 0xC0) != 0x80;
    if (starts) {
      if (range < r.content.size() && r.content[range].end == index) {
        out += ']';
        ++range;
      }
      if (range < r.content.size() && r.content[range].begin == index) out += '[';
      ++index;
    }
    if (i < r.text.size()) out += r.text[i];
  }
  return out;
}

const fs::path here = test::source_dir() / "tests" / "template";

struct Directory : test::TemporaryDirectory {
  void write(const std::string& name, const std::string& text) const { test::write_file(*this / name, text); }
  std::string render() const {
    return jinja::load_chat_template(path())->render(user("Hi"), false, json::Value::object()).text;
  }
};

}  // namespace

TEST_CASE("the corpus renders as jinja2 does") {
  const json::Value goldens = json::parse_file(here / "goldens.json");
  CHECK(goldens.items().size() >= 50);
  for (const auto& golden : goldens.items()) {
    const std::string name = golden.find("template")->string();
    CAPTURE(name);
    CAPTURE(golden.find("conversation")->integer());
    jinja::TemplateOptions options;
    for (const auto& [token, text] : golden.find("special_tokens")->members())
      options.special_tokens.emplace_back(token, text.string());
    const auto chat = jinja::make_chat_template(test::read_file(here / "corpus" / name), options);
    std::string text;
    bool failed = false;
    try {
      text = chat->render(*golden.find("messages"), golden.find("add_generation_prompt")->boolean(),
                          *golden.find("variables"))
                 .text;
    } catch (const Error&) {
      failed = true;
    }
    CHECK(failed == (golden.find("error") != nullptr));
    if (!failed && golden.find("text")) CHECK(text == golden.find("text")->string());
  }
}

TEST_CASE("values print as Python's") {
  CHECK(render("{{ [1.0, 1e16, 0.1, -0.0, 1e-5, true, none, 'it\\'s', {'a': (1,)}] }}") ==
        "[1.0, 1e+16, 0.1, -0.0, 1e-05, True, None, \"it's\", {'a': (1,)}]");
  CHECK(render("{{ messages|tojson }}") == R"([{"role": "user", "content": "Hi"}])");
  CHECK(render("{{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 62 }}") == "-4 2 3.5 4611686018427387904");
  CHECK(render("{{ 'ß'|upper }} {{ 'ΑΣ'|lower }} {{ '日本'|length }} {{ '日本語'[::-1] }}") == "SS ας 2 語本日");
}

TEST_CASE("else of a loop runs when no iteration completed") {
  CHECK(render("{% for i in [1] %}a{% break %}{% else %}b{% endfor %}") == "ab");
  CHECK(render("{% for i in [1] %}a{% else %}b{% endfor %}") == "a");
}

TEST_CASE("undefined prints nothing and fails on use") {
  CHECK(render("[{{ nothing }}]{{ messages[0].nothing is defined }}") == "[]False");
  CHECK(error_of("\n{{ nothing.x }}") == "chat_template (line 2): 'nothing' is undefined");
  CHECK(error_of("{{ messages[0].name.first }}") == "chat_template (line 1): 'dict object' has no attribute 'name'");
  CHECK(render("{{ messages.append }}") == "");
  CHECK(error_of("{{ messages.append(1) }}") ==
        "chat_template (line 1): access to attribute 'append' of 'list' object is unsafe");
  CHECK(render("{{ ''.__class__ }}{{ messages.__class__ is defined }}") == "False");
}

TEST_CASE("errors name the construct and the line") {
  CHECK(error_of("a\n{{ raise_exception('No ' ~ 'way') }}") == "chat_template (line 2): No way");
  CHECK(error_of("\n\n{{ x|nofilter }}") == "chat_template (line 3): there is no filter 'nofilter'");
  CHECK(error_of("{{ x is notest }}") == "chat_template (line 1): there is no test 'notest'");
  CHECK(error_of("{% include 'x' %}") ==
        "chat_template (line 1): 'include' is not supported: a chat template stands alone");
  CHECK(error_of("{% do x %}") == "chat_template (line 1): unknown tag 'do'");
  CHECK(error_of("{% if x %}") == "chat_template (line 1): unexpected end of the template, expected 'endif'");
  CHECK(error_of("{{ 9223372036854775807 + 1 }}") ==
        "chat_template (line 1): the result of '+' does not fit a 64-bit integer");
  CHECK(error_of("{{ 'a'|pprint }}") == "chat_template (line 1): the filter 'pprint' is not supported");
  CHECK(error_of("{% break %}") == "chat_template (line 1): 'break' outside of a loop");
  CHECK(error_of("{{ 'a") == "chat_template (line 1): unexpected character ': the string has no end");
  CHECK(error_of("\xff") == "chat_template (line 1): the template is not valid UTF-8");
  CHECK_THROWS_WITH(jinja::make_chat_template("x")->render(json::Value::object(), false, json::Value()),
                    "chat_template: messages: expected an array, found an object");
}

TEST_CASE("a render is bounded") {
  jinja::Limits small;
  small.steps = 10000;
  small.memory = 1 << 20;
  small.output = 10000;
  CHECK(error_of("{% for i in range(100000) %}{% endfor %}", small).find("more than 10000 steps") != std::string::npos);
  CHECK(error_of("{{ 'x' * 1000000000000 }}", small).find("bytes of memory") != std::string::npos);
  CHECK(error_of("{{ [0] * 1000000000000 }}", small).find("bytes of memory") != std::string::npos);
  CHECK(error_of("{% for i in range(200) %}{{ 'x' * 100 }}{% endfor %}", small).find("prints more than") !=
        std::string::npos);
  CHECK(error_of("{% for i in range(100001) %}{% endfor %}").find("range too big") != std::string::npos);
  CHECK(error_of("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").find("calls inside each other") !=
        std::string::npos);
  CHECK(error_of("{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}")
            .find("nested deeper") != std::string::npos);
  CHECK(
      error_of("{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = ns.x|map('upper') %}{% endfor %}")
          .find("nested deeper") != std::string::npos);
  CHECK(error_of("{{ " + std::string(10000, '(') + "1" + std::string(10000, ')') + " }}").find("too deeply") !=
        std::string::npos);
  CHECK(error_of("{{ " + std::string(10000, '-') + "1 }}").find("too deeply") != std::string::npos);
  std::string chain = "1", ifs;
  for (int i = 0; i < 5000; ++i) chain += "+1";
  for (int i = 0; i < 5000; ++i) ifs += "{% if 1 %}";
  CHECK(error_of("{{ " + chain + " }}").find("too deeply") != std::string::npos);
  CHECK(error_of(ifs).find("too deeply") != std::string::npos);
  // A namespace in a circle is freed (the sanitizer build would tell).
  CHECK(render("{% set ns = namespace() %}{% set ns.me = ns %}{% macro m() %}{{ ns.x }}{% endmacro %}{% set ns.m = m "
               "%}ok") == "ok");
}

TEST_CASE("what came from the conversation is known") {
  CHECK(marked("<s>{{ messages[0].role }}: {{ messages[0].content }}</s>", "a é b") == "<s>[user]: [a é b]</s>");
  CHECK(marked("{{ '<|' + messages[0].content|trim + '|>' }}", "  x ") == "<|[x]|>");
  CHECK(marked("{{ messages[0].content.split('-')[-1] ~ '.' }}", "a-bc") == "[bc].");
  CHECK(marked("{{ messages[0].content.replace('b', '<b>') }}", "abc") == "[a]<b>[c]");
  CHECK(marked("{{ messages[0]|tojson }}", "q\"") == R"({"[role]": "[user]", "[content]": "[q\"]"})");
  CHECK(marked("{{ ('x' ~ messages[0].content)[::-1]|upper }}", "ab") == "[BA]X");
  CHECK(marked("{% set t %}<{{ messages[0].content }}>{% endset %}{{ '%s|' % t }}", "a") == "<[a]>|");
  CHECK(marked("{% macro m(x) %}({{ x }}){% endmacro %}{{ m(messages[0].content) }}", "a") == "([a])");
  CHECK(marked("{{ ['<', messages[0].content, '>']|join(',') }}", "a") == "<,[a],>");
  CHECK(marked("{{ [messages[0].content] }}", "a\n") == "['[a\\n]']");
  CHECK(marked("{{ '{}!'.format(messages[0].content) }}{{ messages|length }}", "a") == "[a]!1");
}

TEST_CASE("variables, dates and reasoning") {
  json::Value variables = json::Value::object();
  variables.set("date", "2024-07-26").set("enable_thinking", false);
  CHECK(render("{{ strftime_now('%d %B %Y') }}{{ enable_thinking is false }}{{ tools is none }}", variables) ==
        "26 July 2024TrueTrue");
  const json::Value messages = json::parse(R"([{"role": "assistant", "reasoning": "why"}])", "test");
  CHECK(jinja::make_chat_template("{{ messages[0] }}")->render(messages, false, json::Value()).text ==
        "{'thinking': 'why', 'role': 'assistant', 'reasoning': 'why', 'reasoning_content': 'why'}");
  const auto a = jinja::make_chat_template("x"), b = jinja::make_chat_template("y");
  CHECK(a->hash().size() == 16);
  CHECK(a->hash() != b->hash());
}

TEST_CASE("a model directory's template") {
  const Directory dir;
  CHECK(jinja::load_chat_template(dir.path()) == nullptr);
  dir.write("chat_template.json", R"({"chat_template": "third"})");
  CHECK(dir.render() == "third");
  dir.write("special_tokens_map.json", R"({"bos_token": "MAP", "eos_token": "MAP", "pad_token": {"content": "PAD"}})");
  dir.write("tokenizer_config.json", R"({"bos_token": {"__type": "AddedToken", "content": "<s>"}, "eos_token": null,
    "chat_template": [{"name": "tool_use", "template": "tools!"},
                      {"name": "default", "template": "{{ bos_token }}{{ eos_token is defined }}{{ pad_token }}"}]})");
  CHECK(dir.render() == "<s>FalsePAD");
  json::Value tools = json::Value::object();
  tools.set("tools", json::Value::array());
  CHECK(jinja::load_chat_template(dir.path())->render(user("Hi"), false, tools).text == "tools!");
  dir.write("chat_template.jinja", "file {{ bos_token }}\r\n");
  CHECK(dir.render() == "file <s>");
  dir.write("chat_template.jinja", "{% if %}");
  CHECK_THROWS_WITH_AS(jinja::load_chat_template(dir.path()),
                       doctest::Contains("chat_template.jinja (line 1): unexpected"), Error);
  dir.write("tokenizer_config.json", R"({"bos_token": 5})");
  CHECK_THROWS_AS(jinja::load_chat_template(dir.path()), Error);
}

TEST_CASE("tokens that a model names itself are given to its template") {
  const Directory dir;
  dir.write("chat_template.jinja",
            "{{ begin }}|{{ stop }}|{{ image_token }}|{{ audio_token }}|{{ bos_token }}|{{ no }}");
  dir.write("tokenizer_config.json", R"({"bos_token": "<s>", "add_bos_token": true, "image_token": "<img>",
    "extra_special_tokens": {"begin": "<|begin|>", "stop": {"__type": "AddedToken", "content": "<|end|>"}, "no": null},
    "model_specific_special_tokens": {"audio_token": "<snd>"}})");
  CHECK(dir.render() == "<|begin|>|<|end|>|<img>|<snd>|<s>|");
  dir.write("tokenizer_config.json", R"({"extra_special_tokens": ["<a>", "<b>"]})");  // names nothing
  CHECK(dir.render() == "|||||");
  dir.write("tokenizer_config.json", R"({"extra_special_tokens": {"begin": 5}})");
  CHECK_THROWS_WITH_AS(jinja::load_chat_template(dir.path()), doctest::Contains("extra_special_tokens.begin"), Error);
}

TEST_CASE("real tokenizers' templates") {
  const char* root = std::getenv("SIGNALBOX_TOKENIZERS");
  if (!root) {
    return test::skip("chat templates of real tokenizers: SIGNALBOX_TOKENIZERS is not set");
  }
  for (const auto& entry : fs::directory_iterator(root)) {
    CAPTURE(entry.path().string());
    const auto chat = jinja::load_chat_template(entry.path());
    if (!chat) continue;
    const Rendered rendered = chat->render(user("Héllo <s>"), true, json::Value::object());
    CHECK(rendered.text.find("Héllo <s>") != std::string::npos);
    CHECK(rendered.content.size() >= 1);
  }
}
