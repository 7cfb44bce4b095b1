#include "loaders/template/chat_template.h"

#include <algorithm>
#include <fstream>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "base/utf8.h"
#include "loaders/template/lexer.h"

namespace signalbox::loaders::jinja {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t max_source = uint64_t{4} << 20;
constexpr uint64_t max_file = uint64_t{64} << 20;  // tokenizer_config.json lists every added token

// Strings of the conversation are content.
Value from_json(Runtime& rt, const json::Value& value) {
  rt.budget.step();
  switch (value.type()) {
    case json::Type::null: return Value::none();
    case json::Type::boolean: return Value::boolean(value.boolean());
    case json::Type::integer:
      if (value.is_unsigned()) throw Failure{"an integer of the conversation does not fit 64 bits"};
      return Value::integer(value.integer());
    case json::Type::real: return Value::real(value.real());
    case json::Type::string: return rt.string(value.string(), true);
    case json::Type::array: {
      std::vector<Value> items;
      for (const auto& item : value.items()) items.push_back(from_json(rt, item));
      return rt.list(std::move(items));
    }
    case json::Type::object: {
      std::vector<Dict::Entry> entries;
      for (const auto& [key, item] : value.members()) entries.emplace_back(rt.string(key, true), from_json(rt, item));
      return rt.dict(std::move(entries));
    }
  }
  return Value::none();
}

// {"thinking": R, **message, "reasoning_content": R}, where R is the message's reasoning under any of its three names.
Value with_reasoning(Runtime& rt, const Value& message) {
  if (!message.is(Kind::dict)) return message;
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    const Value* reasoning = message.dict().find(name);
    if (!reasoning || reasoning->is_none()) continue;
    std::vector<Dict::Entry> entries = {{rt.string("thinking"), *reasoning}};
    for (const auto& entry : message.dict().entries) entries.push_back(entry);
    entries.emplace_back(rt.string("reasoning_content"), *reasoning);
    return rt.dict(std::move(entries));
  }
  return message;
}

Value messages_value(Runtime& rt, const json::Value& messages) {
  std::vector<Value> items;
  for (const auto& message : messages.items()) items.push_back(with_reasoning(rt, from_json(rt, message)));
  return rt.list(std::move(items));
}

std::vector<CharRange> code_points(const std::string& bytes, const std::vector<Span>& spans) {
  std::vector<CharRange> ranges;
  size_t at = 0;
  uint32_t index = 0;
  const auto move = [&](size_t to) {
    index += static_cast<uint32_t>(count_code_points(std::string_view(bytes).substr(at, to - at)));
    at = to;
    return index;
  };
  for (const Span& span : spans) {
    const uint32_t begin = move(span.begin);
    ranges.push_back({begin, move(span.end)});
  }
  return ranges;
}

class SandboxedTemplate : public ChatTemplate {
 public:
  SandboxedTemplate(std::string_view source, TemplateOptions options)
      : options_(std::move(options)), parsed_(parse_source(source)) {
    if (!options_.tool_source.empty()) tool_parsed_ = parse_source(options_.tool_source);
    uint64_t h = 14695981039346656037u;  // FNV-1a
    for (std::string_view text : {source, std::string_view("\0", 1), std::string_view(options_.tool_source)})
      for (unsigned char byte : text) h = (h ^ byte) * 1099511628211u;
    hash_ = hex64(h);
  }

  std::string hash() const override { return hash_; }

  Rendered render(const json::Value& messages, bool add_generation_prompt,
                  const json::Value& variables) const override {
    if (messages.type() != json::Type::array)
      throw Error(options_.where,
                  std::string("messages: expected an array, found ") + json::type_name(messages.type()));
    for (const auto& message : messages.items())
      if (message.type() != json::Type::object)
        throw Error(options_.where,
                    std::string("messages: expected objects, found ") + json::type_name(message.type()));
    if (variables.type() != json::Type::object && !variables.is_null())
      throw Error(options_.where,
                  std::string("template variables: expected an object, found ") + json::type_name(variables.type()));
    const bool object = variables.type() == json::Type::object;
    const json::Value* tools = object ? variables.find("tools") : nullptr;
    const json::Value* date = object ? variables.find("date") : nullptr;
    const bool with_tools = tools && !tools->is_null();
    const Template& parsed = with_tools && tool_parsed_ ? *tool_parsed_ : parsed_;

    Interpreter in(parsed, options_.limits, date && date->is_string() ? date->string() : "");
    TextBuilder out(in.budget);
    try {
      for (auto& [name, value] : make_globals(in)) in.set_global(name, value);
      for (const auto& [name, token] : options_.special_tokens) in.set_global(name, in.string(token));
      in.set_global("messages", messages_value(in, messages));
      in.set_global("tools", Value::none());
      in.set_global("documents", Value::none());
      in.set_global("add_generation_prompt", Value::boolean(add_generation_prompt));
      if (object)
        for (const auto& [name, value] : variables.members()) in.set_global(name, from_json(in, value));
      in.run(out);
    } catch (const Failure& failure) {
      throw Error(options_.where + " (line " + std::to_string(in.line()) + ")", failure.message);
    }
    Rendered rendered;
    rendered.text = out.bytes();
    rendered.content = code_points(rendered.text, out.content());
    return rendered;
  }

 private:
  Template parse_source(std::string_view source) const {
    if (source.size() > max_source)
      throw Error(options_.where,
                  "expected at most " + std::to_string(max_source) + " bytes, found " + std::to_string(source.size()));
    try {
      return parse(source);
    } catch (const SyntaxFailure& failure) {
      throw Error(options_.where + " (line " + std::to_string(failure.line) + ")", failure.message);
    }
  }

  TemplateOptions options_;
  Template parsed_;
  std::optional<Template> tool_parsed_;
  std::string hash_;
};

std::string read_text(const fs::path& file) {
  std::error_code ec;
  const uint64_t size = fs::file_size(file, ec);
  if (ec || !fs::is_regular_file(file, ec)) throw Error(file.string(), "expected a regular file");
  if (size > max_file)
    throw Error(file.string(),
                "expected at most " + std::to_string(max_file) + " bytes, found " + std::to_string(size));
  std::ifstream in(file, std::ios::binary);
  std::string text(size, '\0');
  in.read(text.data(), static_cast<std::streamsize>(size));
  if (!in || static_cast<uint64_t>(in.gcount()) != size) throw Error(file.string(), "cannot be read");
  return text;
}

// A JSON object among the files; nullopt when it is not there.
std::optional<json::Value> read_json(const TemplateFiles& files, const std::string& name) {
  const auto text = files.read(name);
  if (!text) return std::nullopt;
  json::Value value = json::parse(*text, files.where + name);
  json::Ref(value, files.where + name).expect_object();
  return value;
}

// A special token is a string, or an object that holds one. The first file that has a name decides.
void add_special_token(const std::string& name, const json::Ref& ref, TemplateOptions& options,
                       std::vector<std::string>& seen) {
  if (std::find(seen.begin(), seen.end(), name) != seen.end()) return;
  seen.push_back(name);
  if (ref.is_null()) return;
  options.special_tokens.emplace_back(name, ref.value().is_string() ? ref.string() : ref.at("content").string());
}

void add_special_tokens(const json::Value& config, const std::string& where, TemplateOptions& options,
                        std::vector<std::string>& seen) {
  for (const char* name : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"})
    if (const json::Value* value = config.find(name))
      add_special_token(name, json::Ref(*value, where, name), options, seen);
  // Names that a model gives to tokens of its own: an object, under either key; or, as transformers 5 saves them,
  // members "..._token" that are texts.
  for (const char* key : {"extra_special_tokens", "model_specific_special_tokens"})
    if (const json::Value* names = config.find(key); names && names->type() == json::Type::object)
      for (const auto& [name, ref] : json::Ref(*names, where, key).members())
        add_special_token(name, ref, options, seen);
  for (const auto& [name, value] : config.members()) {
    const bool token = value.is_string() || (value.type() == json::Type::object && value.find("content"));
    if (name.ends_with("_token") && token) add_special_token(name, json::Ref(value, where, name), options, seen);
  }
}

// The value of a `chat_template` key: false when there is none.
bool take_template(const json::Value& config, const std::string& file, std::string& source, TemplateOptions& options) {
  const json::Value* value = config.find("chat_template");
  if (!value || value->is_null()) return false;
  const json::Ref ref(*value, file, "chat_template");
  options.where = file + ": chat_template";
  if (value->is_string()) {
    source = value->string();
    return true;
  }
  bool found = false;
  for (const auto& entry : ref.items()) {
    const std::string& name = entry.at("name").string();
    const std::string& text = entry.at("template").string();
    if (name == "default") {
      source = text;
      found = true;
    }
    if (name == "tool_use") options.tool_source = text;
  }
  if (!found) throw Error(options.where, "expected a template named 'default' in the list");
  return true;
}

}  // namespace

std::unique_ptr<ChatTemplate> make_chat_template(std::string_view source, TemplateOptions options) {
  return std::make_unique<SandboxedTemplate>(source, std::move(options));
}

std::unique_ptr<ChatTemplate> load_chat_template(const TemplateFiles& files, const Limits& limits) {
  TemplateOptions options;
  options.limits = limits;
  std::vector<std::string> seen;
  const std::string config_name = "tokenizer_config.json", map_name = "special_tokens_map.json",
                    holder_name = "chat_template.json";
  const auto config = read_json(files, config_name);
  if (config) add_special_tokens(*config, files.where + config_name, options, seen);
  if (const auto map = read_json(files, map_name)) add_special_tokens(*map, files.where + map_name, options, seen);

  if (const auto source = files.read("chat_template.jinja")) {
    if (const auto tool = files.read("additional_chat_templates/tool_use.jinja")) options.tool_source = *tool;
    options.where = files.where + "chat_template.jinja";
    return make_chat_template(*source, std::move(options));
  }
  std::string source;
  if (config && take_template(*config, files.where + config_name, source, options))
    return make_chat_template(source, std::move(options));
  if (const auto holder = read_json(files, holder_name);
      holder && take_template(*holder, files.where + holder_name, source, options))
    return make_chat_template(source, std::move(options));
  return nullptr;
}

std::unique_ptr<ChatTemplate> load_chat_template(const fs::path& directory, const Limits& limits) {
  TemplateFiles files;
  files.where = (directory / "").string();
  files.read = [&](const std::string& name) -> std::optional<std::string> {
    std::error_code ec;
    if (!fs::exists(directory / name, ec)) return std::nullopt;
    return read_text(directory / name);
  };
  return load_chat_template(files, limits);
}

}  // namespace signalbox::loaders::jinja
