// How the findings of `signalbox data check` read, for people and as JSON.
#include <algorithm>
#include <cstdio>
#include <map>

#include "base/text.h"
#include "base/utf8.h"
#include "tools/signalbox/data_check.h"

namespace signalbox::tools {

namespace {

constexpr size_t width = 100, indent = 16;

// "  label         text", broken at spaces, later lines under the first.
std::string item(const std::string& label, const std::string& text) {
  std::string line = "  " + label;
  line.resize(std::max(line.size() + 1, indent), ' ');
  std::string out;
  size_t at = 0;
  bool fresh = true;
  while (at < text.size()) {
    const size_t end = std::min(text.find(' ', at), text.size());
    const std::string word = text.substr(at, end - at);
    if (!fresh && count_code_points(line) + 1 + count_code_points(word) > width) {
      out += line + "\n";
      line = std::string(indent, ' ') + word;
    } else {
      line += (fresh ? "" : " ") + word;
    }
    fresh = false;
    at = end + 1;
  }
  return out + line + "\n";
}

// The same on one line, however long: it may hold a command that is to be copied.
std::string line_item(const std::string& label, const std::string& text) {
  std::string line = "  " + label;
  line.resize(std::max(line.size() + 1, indent), ' ');
  return line + text + "\n";
}

std::string counted(const Counted& counts) {
  constexpr size_t most = 12;
  std::vector<std::string> parts;
  for (const auto& [value, n] : counts)
    if (parts.size() < most) parts.push_back(value + " " + std::to_string(n));
  return joined(parts) + (counts.size() > most ? ", ... (" + std::to_string(counts.size()) + ")" : "");
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, value == static_cast<double>(static_cast<int64_t>(value)) ? "%.0f" : "%.1f", value);
  return text;
}

std::string lengths(const Lengths& of, int64_t records) {
  return std::to_string(of.min) + " to " + std::to_string(of.max) + ", median " + number(of.median) + ", 95 % up to " +
         std::to_string(of.p95) + (of.n < records ? " (" + std::to_string(of.n) + " records)" : "");
}

std::string holds(const DataCheck& check) {
  const Survey& s = check.survey;
  std::string out;
  std::vector<std::string> kinds;
  if (s.prompts > 0) kinds.push_back(std::to_string(s.prompts) + " prompts");
  if (s.messages > 0) kinds.push_back(std::to_string(s.messages) + " messages");
  if (s.tokens > 0) kinds.push_back(std::to_string(s.tokens) + " lists of tokens");
  if (s.empty_prompts > 0) kinds.push_back(std::to_string(s.empty_prompts) + " of them empty");
  out += item("texts", joined(kinds));
  if (!s.conditions.empty()) out += item("conditions", counted(s.conditions));
  if (s.pairs > 0)
    out += item("pairs", std::to_string(s.pairs) + (s.complete_pairs == s.pairs
                                                        ? ", all complete"
                                                        : ", " + std::to_string(s.complete_pairs) + " complete"));
  if (!s.splits.empty()) out += item("splits", counted(s.splits));
  if (!s.domains.empty()) out += item("domains", counted(s.domains));
  if (!s.spans.empty()) {
    std::vector<std::string> parts;
    for (const SpanCount& span : s.spans)
      parts.push_back(span.name + " " + std::to_string(span.records) +
                      (span.empty > 0 ? " (" + std::to_string(span.empty) + " empty)" : ""));
    out += item("spans", joined(parts));
  }
  if (s.targets > 0) out += item("targets", std::to_string(s.targets));
  if (s.answers > 0)
    out += item("answers", std::to_string(s.answers) +
                               (s.no_answer > 0 ? ", " + std::to_string(s.no_answer) + " with an empty list" : ""));
  if (!s.keys.empty()) out += item("other keys", counted(s.keys));
  if (s.copies.examples < s.records)
    out += item("examples", std::to_string(s.copies.examples) + ": records of one pair, question or prompt are one");
  for (const SharedPrompt& pair : s.shared)
    out += item("same prompt",
                in_quotes(pair.first) + " and " + in_quotes(pair.second) +
                    (pair.first_split == pair.second_split
                         ? std::string()
                         : ", in the splits " + in_quotes(pair.first_split) + " and " + in_quotes(pair.second_split)));
  return out;
}

std::string tokens_text(const DataCheck& check) {
  const TokenSurvey& t = *check.tokens;
  const int64_t records = check.survey.records;
  std::string out = "\nTokens of " + check.model + "\n";
  if (t.prompts.n > 0) out += item("prompts", lengths(t.prompts, records));
  if (t.targets.n > 0) out += item("targets", lengths(t.targets, records));
  for (const auto& [name, of] : t.spans) out += item(name, lengths(of, records));
  if (t.context > 0)
    out += item("context", std::to_string(t.context) + " positions, of which an answer needs some too" +
                               (t.too_long > 0 ? "; " + std::to_string(t.too_long) + " records are longer" : ""));
  if (check.survey.messages > 0)
    out += item("template", t.has_template ? "renders " + std::to_string(t.rendered) + " of " +
                                                 std::to_string(check.survey.messages) + " records of messages"
                                           : "none");
  return out;
}

std::string scores_text(const DataCheck& check) {
  const int64_t records = check.survey.records;
  const std::map<Needs, const char*> groups = {{Needs::text, "of texts"},
                                               {Needs::logprobs, "of targets"},
                                               {Needs::divergence, "of targets"},
                                               {Needs::options, "of choices"},
                                               {Needs::routes, "of routes"}};
  std::vector<std::pair<std::string, std::vector<std::string>>> have, lack;
  const auto put = [](auto& into, const std::string& group, std::string name) {
    const auto found = std::find_if(into.begin(), into.end(), [&](const auto& one) { return one.first == group; });
    if (found == into.end()) {
      into.push_back({group, {std::move(name)}});
    } else {
      found->second.push_back(std::move(name));
    }
  };
  for (const Applicability& score : check.scores) {
    const std::string name(score.scorer->name);
    if (score.any()) {
      put(have, groups.at(score.scorer->needs),
          score.records < records ? name + " (" + std::to_string(score.records) + ")" : name);
    } else if (!score.refused.empty()) {
      put(lack, "a key of the right type", name);
    } else {
      put(lack, score.lacking_all.empty() ? score.lacking : score.lacking_all, name);
    }
  }
  std::string out = "\nScores that these records can have (in brackets: records that can, where not all)\n";
  for (const auto& [group, names] : have) out += item(group, joined(names));
  if (!lack.empty()) out += "\nScores that need what is not there\n";
  for (const auto& [key, names] : lack) out += item(key, (key.size() + 3 > indent ? "for " : "") + joined(names));
  return out;
}

json::Value lengths_json(const Lengths& of) {
  json::Value out = json::Value::object();
  return out.set("n", of.n).set("min", of.min).set("median", of.median).set("p95", of.p95).set("max", of.max);
}

json::Value counted_json(const Counted& counts) {
  json::Value out = json::Value::object();
  for (const auto& [value, n] : counts) out.set(value, n);
  return out;
}

json::Value text_or_null(const std::string& text) { return text.empty() ? json::Value() : json::Value(text); }

json::Value tokens_json(const TokenSurvey& t) {
  json::Value out = json::Value::object(), spans = json::Value::object();
  for (const auto& [name, of] : t.spans) spans.set(name, lengths_json(of));
  out.set("prompts", lengths_json(t.prompts)).set("targets", lengths_json(t.targets)).set("spans", std::move(spans));
  out.set("context", t.context > 0 ? json::Value(t.context) : json::Value()).set("too_long", t.too_long);
  out.set("special_tokens", counted_json(t.special)).set("spans_without_tokens", counted_json(t.without_tokens));
  return out.set("chat_template", t.has_template).set("rendered", t.rendered);
}

}  // namespace

std::string check_text(const DataCheck& check, bool short_form) {
  std::string out;
  if (!short_form) {
    out += joined(check.files) + ": " + std::to_string(check.survey.records) + " of " + std::to_string(check.lines) +
           " records can be read\n" + (check.survey.records > 0 ? holds(check) : std::string());
    if (check.survey.records > 0 && check.tokens) out += tokens_text(check);
    if (check.survey.records > 0) out += scores_text(check) + "\nCommands\n";
    for (const CommandUse& use : check.commands)
      out += line_item(use.name, use.lacking.empty() ? "yes" : "needs " + use.lacking);
  }
  if (!check.cautions.empty()) out += short_form ? "Cautions\n" : "\nCautions\n";
  for (const std::string& caution : check.cautions) out += "  - " + caution + "\n";
  if (!check.problems.empty())
    out += (out.empty() ? "" : "\n") + std::string("Problems, for which a run would refuse the file\n");
  // The same thing in many lines is said once; --json has each.
  constexpr size_t most_places = 6;
  std::vector<std::string> hints;
  std::vector<std::pair<const Problem*, std::vector<std::string>>> groups;
  for (const Problem& problem : check.problems) {
    const auto found = std::find_if(groups.begin(), groups.end(),
                                    [&](const auto& group) { return group.first->what == problem.what; });
    if (found == groups.end()) {
      groups.push_back({&problem, {problem.where}});
    } else {
      // "own.csv:2, 3": the name of the file once.
      const std::string start = found->first->where.substr(0, found->first->where.rfind(':') + 1);
      found->second.push_back(problem.where.starts_with(start) ? problem.where.substr(start.size()) : problem.where);
    }
    if (!problem.hint.empty() && std::find(hints.begin(), hints.end(), problem.hint) == hints.end())
      hints.push_back(problem.hint);
  }
  for (auto& [problem, places] : groups) {
    const size_t n = places.size();
    if (n > most_places) places.resize(most_places);
    out += "  " + joined(places) + (n > places.size() ? " and " + std::to_string(n - places.size()) + " more" : "") +
           ": " + problem->what + "\n";
  }
  if (!hints.empty()) out += "\nWhat mends them\n";
  for (const std::string& hint : hints) out += "  - " + hint + "\n";
  if (!check.next.empty() && !short_form) out += "\nNext:\n  " + check.next + "\n";
  return out;
}

json::Value check_json(const DataCheck& check) {
  const Survey& s = check.survey;
  json::Value out = json::Value::object(), files = json::Value::array(), spans = json::Value::object();
  for (const std::string& file : check.files) files.push_back(file);
  out.set("files", std::move(files)).set("lines", check.lines).set("records", s.records);
  json::Value kinds = json::Value::object();
  out.set("kinds", kinds.set("prompt", s.prompts).set("messages", s.messages).set("tokens", s.tokens));
  out.set("conditions", counted_json(s.conditions)).set("domains", counted_json(s.domains));
  out.set("splits", counted_json(s.splits)).set("without_split", s.without_split);
  out.set("pairs", s.pairs).set("complete_pairs", s.complete_pairs);
  for (const SpanCount& span : s.spans) {
    json::Value one = json::Value::object();
    spans.set(span.name, one.set("records", span.records).set("empty", span.empty));
  }
  out.set("spans", std::move(spans)).set("targets", s.targets).set("empty_targets", s.empty_targets);
  out.set("answers", s.answers).set("no_answer", s.no_answer).set("keys", counted_json(s.keys));
  out.set("examples", s.copies.examples).set("copies", s.copies.copies).set("shared_prompts", s.copies.shared);
  out.set("shared_between_splits", s.shared_between_splits);
  json::Value scores = json::Value::object();
  for (const Applicability& score : check.scores) {
    json::Value one = json::Value::object();
    one.set("applies", score.any()).set("records", score.records);
    one.set("lacking", text_or_null(!score.refused.empty()       ? score.refused
                                    : !score.lacking_all.empty() ? score.lacking_all
                                                                 : score.lacking));
    scores.set(std::string(score.scorer->name), std::move(one));
  }
  out.set("scores", std::move(scores));
  json::Value commands = json::Value::object();
  for (const CommandUse& use : check.commands) {
    json::Value one = json::Value::object();
    one.set("applies", use.lacking.empty()).set("lacking", text_or_null(use.lacking));
    commands.set(use.name, one.set("line", use.lacking.empty() ? text_or_null(use.line) : json::Value()));
  }
  out.set("commands", std::move(commands));
  out.set("model", text_or_null(check.model));
  out.set("tokens", check.tokens ? tokens_json(*check.tokens) : json::Value());
  json::Value problems = json::Value::array(), cautions = json::Value::array();
  for (const Problem& problem : check.problems) {
    json::Value one = json::Value::object();
    problems.push_back(
        one.set("where", problem.where).set("what", problem.what).set("hint", text_or_null(problem.hint)));
  }
  for (const std::string& caution : check.cautions) cautions.push_back(caution);
  out.set("problems", std::move(problems)).set("cautions", std::move(cautions));
  return out.set("next", text_or_null(check.next));
}

}  // namespace signalbox::tools
