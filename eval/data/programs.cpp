#include "eval/data/programs.h"

#include <algorithm>
#include <fstream>
#include <set>

#include "base/near_names.h"
#include "base/utf8.h"
#include "eval/data/prompt_hash.h"

namespace signalbox::eval {

namespace {

bool ends_in_space(const std::string& text) {
  return !text.empty() && (text.back() == ' ' || text.back() == '\n' || text.back() == '\t');
}
bool begins_with_space(const std::string& text) {
  return !text.empty() && (text.front() == ' ' || text.front() == '\n' || text.front() == '\t');
}

Exemplar parse_exemplar(const json::Ref& item) {
  item.reject_unknown({"user", "assistant"});
  return {item.at("user").string(), item.at("assistant").string()};
}

std::vector<Exemplar> read_exemplars(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!std::filesystem::is_regular_file(file) || !in) throw Error(file.string(), "expected a file, found none");
  std::vector<Exemplar> exemplars;
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    const std::string where = file.string() + ":" + std::to_string(number);
    if (line.find_first_not_of(" \t") == std::string::npos) {
      if (in.peek() == std::char_traits<char>::eof()) break;
      throw Error(where, "expected a JSON object, found an empty line");
    }
    const json::Value value = json::parse(line, where);
    exemplars.push_back(parse_exemplar(json::Ref(value, where)));
  }
  if (in.bad()) throw Error(file.string(), "cannot read the file");
  if (exemplars.empty()) throw Error(file.string(), "expected at least one exemplar, found none");
  return exemplars;
}

Program parse_program(const json::Ref& object, const std::vector<Program>& earlier,
                      const std::filesystem::path& base_dir) {
  object.reject_unknown({"name", "like", "persona", "persona_role", "exemplars", "suffix", "samples", "temperature",
                         "max_tokens", "top_p", "top_k"});
  Program program;
  if (auto like = object.find("like")) {
    const auto found = std::find_if(earlier.begin(), earlier.end(),
                                    [&](const Program& other) { return other.name == like->string(); });
    if (found == earlier.end())
      like->fail(wrong_name("the name of an earlier program", like->string(), names_of(earlier, &Program::name)));
    program = *found;
  }
  const json::Ref name = object.at("name");
  program.name = name.string();
  if (program.name.empty() || program.name.find_first_of("/@ \t\r\n") != std::string::npos)
    name.fail("expected a name without spaces, '/' and '@', found \"" + program.name + "\"");
  if (std::any_of(earlier.begin(), earlier.end(), [&](const Program& other) { return other.name == program.name; }))
    name.fail("expected a name of its own, found \"" + program.name + "\" again");
  if (auto persona = object.find("persona")) program.persona = persona->string();
  if (auto role = object.find("persona_role")) {
    if (role->string() != "system" && role->string() != "user")
      role->fail("expected \"system\" or \"user\", found \"" + role->string() + "\"");
    if (program.persona.empty()) role->fail("expected a persona beside it, found none");
    program.persona_in_user = role->string() == "user";
  }
  if (auto exemplars = object.find("exemplars")) {
    program.exemplars.clear();
    if (exemplars->value().is_string()) {
      program.exemplars = read_exemplars(base_dir / exemplars->string());
    } else {
      for (const json::Ref& item : exemplars->items()) program.exemplars.push_back(parse_exemplar(item));
    }
  }
  if (auto suffix = object.find("suffix")) program.suffix = suffix->string();
  if (auto samples = object.find("samples")) program.samples = samples->integer(1, 1000000);
  if (auto tokens = object.find("max_tokens")) program.max_tokens = tokens->integer(1, 1 << 24);
  if (auto top_k = object.find("top_k")) program.top_k = static_cast<int32_t>(top_k->integer(0, 1 << 30));
  auto number = [&](const char* key, double high, std::optional<double>& out) {
    auto found = object.find(key);
    if (!found) return;
    const double value = found->number();
    if (!(value >= 0 && value <= high))
      found->fail_type("a number from 0 to " + std::to_string(static_cast<int>(high)));
    out = value;
  };
  number("temperature", 1000, program.temperature);
  number("top_p", 1, program.top_p);
  return program;
}

// The content of a message, which must be one text.
const std::string& content_of(const Record& base, const json::Value& message, const char* which) {
  const json::Value* content = message.find("content");
  if (!content || !content->is_string())
    throw Error(base.where, std::string("messages: expected a text as content of the ") + which + " message, found " +
                                (content ? json::type_name(content->type()) : "none"));
  return content->string();
}

json::Value message(const char* role, const std::string& content) {
  return json::Value::object().set("role", role).set("content", content);
}

std::string role_of(const json::Value& message) { return message.find("role")->string(); }

json::Value derive_messages(const Program& program, const Record& base) {
  std::vector<json::Value> head, turns;
  const auto& items = base.messages.items();
  size_t n_system = 0;
  while (n_system < items.size() && (role_of(items[n_system]) == "system" || role_of(items[n_system]) == "developer"))
    ++n_system;
  head.assign(items.begin(), items.begin() + static_cast<int64_t>(n_system));
  turns.assign(items.begin() + static_cast<int64_t>(n_system), items.end());

  if (!program.suffix.empty()) {
    if (turns.empty() || role_of(turns.back()) != "user")
      throw Error(base.where, "messages: expected a last message of role user to put the suffix of program \"" +
                                  program.name + "\" behind, found another");
    turns.back().set("content", content_of(base, turns.back(), "last") + program.suffix);
  }
  std::vector<json::Value> exemplars;
  for (const Exemplar& exemplar : program.exemplars) {
    exemplars.push_back(message("user", exemplar.user));
    exemplars.push_back(message("assistant", exemplar.assistant));
  }
  turns.insert(turns.begin(), exemplars.begin(), exemplars.end());
  if (!program.persona.empty()) {
    if (program.persona_in_user) {
      const auto first = std::find_if(turns.begin(), turns.end(), [](const auto& m) { return role_of(m) == "user"; });
      if (first == turns.end())
        throw Error(base.where, "messages: expected a message of role user for the persona, found none");
      first->set("content", program.persona + "\n\n" + content_of(base, *first, "first user"));
    } else if (!head.empty()) {
      head.front().set("content", program.persona + "\n\n" + content_of(base, head.front(), "system"));
    } else {
      head.push_back(message("system", program.persona));
    }
  }
  json::Value out = json::Value::array();
  for (json::Value& item : head) out.push_back(std::move(item));
  for (json::Value& item : turns) out.push_back(std::move(item));
  return out;
}

// What stands in front of a prompt.
std::string prompt_head(const Program& program) {
  std::string head;
  if (!program.persona.empty()) head = program.persona + "\n\n";
  for (const Exemplar& exemplar : program.exemplars) {
    const bool joined = ends_in_space(exemplar.user) || begins_with_space(exemplar.assistant);
    head += exemplar.user + (joined ? "" : " ") + exemplar.assistant + "\n\n";
  }
  return head;
}

}  // namespace

Sampling Program::sampling_over(Sampling base) const {
  base.temperature = temperature.value_or(base.temperature);
  base.top_p = top_p.value_or(base.top_p);
  base.top_k = top_k.value_or(base.top_k);
  return base;
}

std::vector<Program> parse_programs(const json::Ref& programs, const std::filesystem::path& base_dir) {
  if (programs.value().is_string()) {
    if (programs.string() != "regimes")
      programs.fail("expected a list of programs or \"regimes\", found \"" + programs.string() + "\"");
    return default_regimes();
  }
  std::vector<Program> out;
  for (const json::Ref& item : programs.items()) out.push_back(parse_program(item, out, base_dir));
  if (out.empty()) programs.fail("expected at least one program, found none");
  return out;
}

std::vector<Program> load_programs(const std::string& given) {
  if (given == "regimes") return default_regimes();
  const json::Value value = json::parse_file(given);
  const json::Ref root(value, given);
  const std::filesystem::path dir = std::filesystem::path(given).parent_path();
  return parse_programs(value.type() == json::Type::object ? root.at("programs") : root, dir);
}

void select_programs(std::vector<Program>& programs, const std::vector<std::string>& names) {
  if (names.empty()) return;
  for (const std::string& name : names)
    if (std::none_of(programs.begin(), programs.end(), [&](const Program& p) { return p.name == name; }))
      throw UsageError("--program", wrong_name("the name of a program", name, names_of(programs, &Program::name)));
  std::erase_if(programs,
                [&](const Program& p) { return std::find(names.begin(), names.end(), p.name) == names.end(); });
}

std::vector<Program> default_regimes() {
  Program direct, steps, few_shot, sampled;
  direct.name = "R0";
  steps.name = "R1";
  steps.suffix = "\nLet's think step by step.";
  few_shot = steps;
  few_shot.name = "R2";
  few_shot.persona =
      "Act as a logical auditor. Name every fact that you use, check each step against what was given, and only then "
      "answer.";
  few_shot.exemplars = {
      {"Ana's parcel is in the red box. The red box is in the north shed. The shed moved from the yard to the dock. "
       "Where is Ana's parcel?\nLet's think step by step.",
       "The parcel is in the red box. The red box is in the north shed. The north shed is now at the dock. So the "
       "parcel is at the dock. Answer: the dock."},
      {"A jar holds 4 beads. Tom adds 3 beads. Eve takes 5 beads out. How many beads are in the jar?\nLet's think step "
       "by step.",
       "The jar holds 4 beads. After Tom it holds 4 + 3 = 7. After Eve it holds 7 - 5 = 2. Answer: 2."},
      {"Lio sits left of Mara. Mara sits left of Noor. Lio and Noor change places. Who sits at the left end?\nLet's "
       "think step by step.",
       "From the left they sit Lio, Mara, Noor. Lio and Noor change places, which gives Noor, Mara, Lio. The left end "
       "is Noor's. Answer: Noor."}};
  sampled = steps;
  sampled.name = "R3";
  sampled.samples = 10;
  sampled.temperature = 0.7;
  return {direct, steps, few_shot, sampled};
}

json::Value programs_json(const std::vector<Program>& programs) {
  json::Value out = json::Value::array();
  for (const Program& program : programs) {
    json::Value item = json::Value::object();
    item.set("name", program.name);
    if (!program.persona.empty())
      item.set("persona", program.persona).set("persona_role", program.persona_in_user ? "user" : "system");
    if (!program.exemplars.empty()) {
      json::Value list = json::Value::array();
      for (const Exemplar& exemplar : program.exemplars)
        list.push_back(json::Value::object().set("user", exemplar.user).set("assistant", exemplar.assistant));
      item.set("exemplars", std::move(list));
    }
    if (!program.suffix.empty()) item.set("suffix", program.suffix);
    if (program.samples) item.set("samples", *program.samples);
    if (program.temperature) item.set("temperature", *program.temperature);
    if (program.max_tokens) item.set("max_tokens", *program.max_tokens);
    if (program.top_p) item.set("top_p", *program.top_p);
    if (program.top_k) item.set("top_k", int64_t{*program.top_k});
    out.push_back(std::move(item));
  }
  return out;
}

Record apply_program(const Program& program, const Record& base) {
  if (base.kind == Record::Kind::tokens)
    throw Error(base.where, "program \"" + program.name + "\": expected a prompt or messages, found tokens");
  if (base.source.find("base"))
    throw Error(base.where, "program \"" + program.name +
                                "\": expected a base record, found one that a program has "
                                "made (it has the key \"base\")");
  json::Value object = base.source;
  object.set("id", base.id + "@" + program.name);
  object.set("base", base.id);
  object.set("base_prompt", line_prompt_hash(base.source));
  if (!base.condition.empty()) object.set("base_condition", base.condition);
  object.set("condition", program.name);
  object.set("pair", base.pair.empty() ? base.id : base.pair);
  if (base.kind == Record::Kind::messages) {
    if (!base.spans.empty() && program.changes_text())
      throw Error(base.where, "spans: expected none in messages whose text program \"" + program.name +
                                  "\" changes (they name places in the rendered text), found \"" +
                                  base.spans.begin()->first + "\"");
    object.set("messages", derive_messages(program, base));
  } else {
    const std::string head = prompt_head(program);
    object.set("prompt", head + base.prompt + program.suffix);
    const int64_t shift = count_code_points(head);
    if (const json::Value* spans = base.source.find("spans"); spans && !spans->is_null()) {
      json::Value moved = json::Value::object();
      for (const auto& [name, range] : spans->members())
        moved.set(name, json::Value::array()
                            .push_back(range.items()[0].integer() + shift)
                            .push_back(range.items()[1].integer() + shift));
      object.set("spans", std::move(moved));
    }
  }
  return parse_record(object, base.where);
}

std::vector<Derived> apply_programs(const std::vector<Program>& programs, const std::vector<Record>& bases) {
  std::vector<Derived> out;
  std::set<std::string> seen;
  for (size_t b = 0; b < bases.size(); ++b)
    for (size_t p = 0; p < programs.size(); ++p) {
      out.push_back({apply_program(programs[p], bases[b]), b, p});
      if (!seen.insert(out.back().record.id).second)
        throw Error(bases[b].where,
                    "expected an id of its own for each derived record, found \"" + out.back().record.id + "\" again");
    }
  return out;
}

}  // namespace signalbox::eval
