#include "eval/store/manifest.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <span>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "base/utf8.h"

namespace signalbox::eval {

namespace {

constexpr std::array<std::string_view, 9> own_keys = {"schema", "status", "start",    "end",     "shard",
                                                      "seeds",  "layout", "compared", "attempts"};
constexpr size_t max_shown = 8;         // differences in one line
constexpr size_t max_value_chars = 60;  // of a value in a difference

bool is_own(const std::string& key) { return std::find(own_keys.begin(), own_keys.end(), key) != own_keys.end(); }

json::Value text_or_null(const std::string& text) { return text.empty() ? json::Value() : json::Value(text); }

std::string text_or_empty(const json::Ref& object, std::string_view key) {
  const json::Ref value = object.at(key);
  return value.is_null() ? "" : value.string();
}

RunStatus status_of(const json::Ref& value) {
  for (RunStatus status : {RunStatus::running, RunStatus::interrupted, RunStatus::failed, RunStatus::complete})
    if (value.string() == run_status_name(status)) return status;
  value.fail("expected running, interrupted, failed or complete, found \"" + value.string() + "\"");
}

bool is_hash(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// Two values as short texts that differ: long ones from a little before the place where they part.
std::pair<std::string, std::string> shortened(const json::Value& a, const json::Value& b) {
  if (a.is_string() && b.is_string() && is_hash(a.string()) && is_hash(b.string())) {
    size_t digits = 12;
    while (digits < 64 && a.string().compare(0, digits, b.string(), 0, digits) == 0) digits += 4;
    return {a.string().substr(0, digits) + "...", b.string().substr(0, digits) + "..."};
  }
  const std::string left = json::dump(a), right = json::dump(b);
  size_t same = 0;
  while (same < left.size() && same < right.size() && left[same] == right[same]) ++same;
  size_t from = std::max(left.size(), right.size()) <= max_value_chars || same < 20 ? 0 : same - 10;
  while (from > 0 && (static_cast<unsigned char>(left[from]) & 0xc0) == 0x80) --from;
  const auto cut = [&](const std::string& text) {
    const std::string rest = text.substr(from);
    return (from > 0 ? "..." : "") +
           (rest.size() > max_value_chars ? utf8_prefix(rest, max_value_chars) + "..." : rest);
  };
  return {cut(left), cut(right)};
}

std::string changed(const std::string& path, const std::string& was, const std::string& now) {
  return path + ": was " + was + ", now " + now;
}

std::string short_text(const json::Value& value) { return shortened(value, json::Value()).first; }

void compare(const json::Value& was, const json::Value& now, const std::string& path, std::vector<std::string>& found) {
  if (was == now) return;
  const auto member = [&](const std::string& key) { return path.empty() ? key : path + "." + key; };
  if (was.type() == json::Type::object && now.type() == json::Type::object) {
    for (const auto& [key, value] : was.members()) {
      if (const json::Value* other = now.find(key))
        compare(value, *other, member(key), found);
      else
        found.push_back(changed(member(key), short_text(value), "nothing"));
    }
    for (const auto& [key, value] : now.members())
      if (!was.find(key)) found.push_back(changed(member(key), "nothing", short_text(value)));
    return;
  }
  if (was.type() == json::Type::array && now.type() == json::Type::array) {
    const size_t n = std::min(was.items().size(), now.items().size());
    if (was.items().size() != now.items().size())
      found.push_back(
          changed(path, std::to_string(was.items().size()) + " items", std::to_string(now.items().size()) + " items"));
    for (size_t i = 0; i < n; ++i) compare(was.items()[i], now.items()[i], path + "[" + std::to_string(i) + "]", found);
    return;
  }
  const auto [before, after] = shortened(was, now);
  found.push_back(changed(path, before, after));
}

json::Value attempts_json(const std::vector<RunAttempt>& attempts) {
  json::Value list = json::Value::array();
  for (const RunAttempt& attempt : attempts) {
    json::Value one = json::Value::object();
    one.set("start", attempt.start)
        .set("end", text_or_null(attempt.end))
        .set("status", run_status_name(attempt.status));
    list.push_back(std::move(one));
  }
  return list;
}

}  // namespace

const char* run_status_name(RunStatus status) {
  switch (status) {
    case RunStatus::running: return "running";
    case RunStatus::interrupted: return "interrupted";
    case RunStatus::failed: return "failed";
    case RunStatus::complete: return "complete";
  }
  return "";
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts = {};
  ::gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

json::Value Manifest::to_json() const {
  json::Value value = json::Value::object();
  value.set("schema", schema)
      .set("status", run_status_name(status))
      .set("start", start)
      .set("end", text_or_null(end))
      .set("shard", shard.whole() ? json::Value() : json::Value(shard.text()));
  const auto add = [&](const json::Value& members) {
    for (const auto& [key, member] : members.members()) {
      if (is_own(key) || value.find(key))
        throw Error(manifest_file, "expected a name that is free for what is run, found \"" + key + "\"");
      value.set(key, member);
    }
  };
  add(info);
  add(identity);
  json::Value compared = json::Value::array();
  for (const auto& member : identity.members()) compared.push_back(member.first);
  const json::Value layout_json = layout ? layout->to_json() : json::Value();
  value.set("compared", std::move(compared))
      .set("seeds", layout ? *layout_json.find("seeds") : json::Value())
      .set("layout", layout_json)
      .set("attempts", attempts_json(attempts));
  return value;
}

Manifest Manifest::from_json(const json::Ref& value, const std::string& schema) {
  value.expect_object();
  const auto found = value.find("schema");
  if (!found || !found->value().is_string() || found->string() != schema)
    value.fail("expected a run of schema \"" + schema + "\", found " + (found ? json::dump(found->value()) : "none"));
  Manifest manifest;
  manifest.schema = schema;
  manifest.status = status_of(value.at("status"));
  manifest.start = value.at("start").string();
  manifest.end = text_or_empty(value, "end");
  const json::Ref shard = value.at("shard");
  if (!shard.is_null()) {
    try {
      manifest.shard = parse_shard(shard.string());
    } catch (const UsageError& error) {
      shard.fail(error.reason());
    }
  }
  if (!value.at("layout").is_null()) {
    manifest.layout = Layout::from_json(value.at("layout"));
    const json::Value layout = manifest.layout->to_json();
    if (!(value.at("seeds").value() == *layout.find("seeds")))
      value.at("seeds").fail("expected those of layout, found others");
  }
  for (const json::Ref& attempt : value.at("attempts").items()) {
    attempt.reject_unknown({"start", "end", "status"});
    manifest.attempts.push_back(
        {attempt.at("start").string(), text_or_empty(attempt, "end"), status_of(attempt.at("status"))});
  }
  std::vector<std::string> compared;
  for (const json::Ref& key : value.at("compared").items()) compared.push_back(key.string());
  for (const std::string& key : compared) manifest.identity.set(key, value.at(key).value());
  for (const auto& [key, member] : value.value().members())
    if (!is_own(key) && !manifest.identity.find(key)) manifest.info.append_member(key, member);
  return manifest;
}

std::optional<Manifest> Manifest::read(const std::filesystem::path& dir, const std::string& schema) {
  const std::filesystem::path file = dir / manifest_file;
  std::error_code failed;
  if (!std::filesystem::exists(file, failed) && !failed) return std::nullopt;
  const json::Value value = json::parse_file(file);
  return from_json(json::Ref(value, file.string()), schema);
}

std::string schema_of(const std::filesystem::path& dir) {
  try {
    const json::Value value = json::parse_file(dir / manifest_file);
    const json::Value* schema = value.type() == json::Type::object ? value.find("schema") : nullptr;
    return schema && schema->is_string() ? schema->string() : "";
  } catch (const Error&) {
    return "";
  }
}

void Manifest::write(const std::filesystem::path& dir) const {
  write_file_atomically(dir / manifest_file, json::dump(to_json(), 2) + "\n");
}

std::vector<std::string> differences(const json::Value& was, const json::Value& now, const std::string& path) {
  std::vector<std::string> found;
  compare(was, now, path, found);
  return found;
}

std::vector<std::string> differences(const Manifest& was, const Manifest& now) {
  std::vector<std::string> found = differences(was.identity, now.identity);
  if (!(was.shard == now.shard))
    found.push_back(
        changed("shard", was.shard.whole() ? "none" : was.shard.text(), now.shard.whole() ? "none" : now.shard.text()));
  // What was changed there follows from the spec, the data or the shard where one of these differs.
  if (found.empty() && was.layout && now.layout)
    found = differences(was.layout->to_json(), now.layout->to_json(), "layout");
  return found;
}

std::string joined_differences(const std::vector<std::string>& differences) {
  std::string line = joined(std::span(differences).first(std::min(differences.size(), max_shown)), "; ");
  if (differences.size() > max_shown) line += "; and " + std::to_string(differences.size() - max_shown) + " more";
  return line;
}

}  // namespace signalbox::eval
