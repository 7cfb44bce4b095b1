#include "eval/report/run_headline.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <string_view>

#include "base/text.h"
#include "eval/data/hints.h"
#include "eval/findings/format.h"

namespace signalbox::eval {

namespace {

constexpr size_t most_told = 12, most_other_effects = 3;

std::string under(const FindingsIndex& findings, const std::string& condition) {
  if (findings.conditions().size() == 1) return "";
  return condition.empty() ? " over all records" : " under " + condition;
}

// The conditions that sentences go through: not the pooled one where there are others.
std::vector<std::string> told_conditions(const FindingsIndex& findings) {
  std::vector<std::string> out = findings.conditions();
  if (out.size() > 1) out.pop_back();
  return out;
}

// What the run is about first: the first of its primary metrics.
const std::string& first_metric(const FindingsIndex& findings) {
  for (const std::string& metric : findings.metrics())
    for (const std::string& primary : findings.run().primary.metrics)
      if (metric == primary) return metric;
  return findings.metrics().front();
}

int decimals_of(const FindingsIndex& findings, const std::string& metric) {
  return decimals_for(findings.run().mean(findings.baseline(), metric).value);
}

std::string level_of(const ResultRow& row) {
  return std::isfinite(row.q) ? "q " + format_p(row.q) : "p " + format_p(row.p);
}

std::string sets_text(const ControlBand& controls) {
  const int64_t n = controls.differences.n, larger = *controls.rank - 1;
  const std::string all = std::to_string(n) + " random " + (n == 1 ? "set" : "sets");
  if (larger == 0)
    return "more than " + std::string(n == 1 ? "the " : "all ") + all + (controls.few() ? ", which are few" : "");
  return "and " + std::to_string(larger) + " of " + all + " by as much or more";
}

// "lowers em under A by 0.400 [0.260, 0.540] (n = 50, q 0.0001), more than all 20 random sets"
std::string effect_clause(const FindingsIndex& findings, const ResultRow& row) {
  const std::string what = row.metric + under(findings, row.condition);
  const Estimate& found = row.difference;
  if (!std::isfinite(found.value)) return "has no value of " + what + " to compare";
  const int decimals = decimals_of(findings, row.metric);
  const bool has_interval = std::isfinite(found.lo) && std::isfinite(found.hi);
  const std::string counted = " (n = " + std::to_string(found.n) + ", " + level_of(row) + ")";
  std::string out;
  if (findings.shows(row) && found.value != 0) {
    const bool down = found.value < 0;
    out = (down ? "lowers " : "raises ") + what + " by " + format_value(std::abs(found.value), decimals);
    if (has_interval)
      out += " " +
             (down ? format_interval(-found.hi, -found.lo, decimals) : format_interval(found.lo, found.hi, decimals));
  } else {
    out = "is not shown to change " + what + ": " + format_difference(found.value, decimals);
    if (has_interval) out += " " + format_interval(found.lo, found.hi, decimals, true);
  }
  out += counted;
  if (row.controls.rank && found.value != 0) out += ", " + sets_text(row.controls);
  return out;
}

std::string first_effects(const FindingsIndex& findings, const std::string& name, const std::string& metric) {
  std::vector<std::string> clauses;
  for (const std::string& condition : told_conditions(findings))
    if (const ResultRow* row = findings.row(name, metric, condition)) clauses.push_back(effect_clause(findings, *row));
  return clauses.empty() ? "" : "It " + joined(clauses, "; ") + ".";
}

// How far the effect under the first two conditions differs.
std::string specificity(const FindingsIndex& findings, const std::string& name, const std::string& metric) {
  const RunFindings& run = findings.run();
  const auto& by = run.all.contrasts[run.intervention_index(name)][run.metric_index(metric)].by_condition;
  if (by.empty() || !std::isfinite(by.front().second.difference)) return "";
  const auto& [conditions, found] = by.front();
  const int decimals = decimals_of(findings, metric);
  std::string out =
      "The effect on " + metric + " under " + conditions + " is " + format_difference(found.difference, decimals);
  if (std::isfinite(found.lo)) out += " " + format_interval(found.lo, found.hi, decimals, true);
  return out + " (p " + format_p(found.p) + ")" + (by.size() > 1 ? "; metrics.json has the other pairs." : ".");
}

std::string other_effects(const FindingsIndex& findings, const std::string& name, const std::string& first) {
  std::vector<std::string> shown, not_shown;
  size_t left_out = 0;
  for (const std::string& metric : findings.metrics()) {
    if (metric == first) continue;
    bool any = false;
    for (const std::string& condition : told_conditions(findings)) {
      const ResultRow* row = findings.row(name, metric, condition);
      if (!row || !std::isfinite(row->difference.value) || row->difference.value == 0 || !findings.shows(*row))
        continue;
      any = true;
      if (shown.size() < most_other_effects)
        shown.push_back(effect_clause(findings, *row));
      else
        ++left_out;
    }
    if (!any) not_shown.push_back(metric);
  }
  std::string out;
  if (!shown.empty()) out = "It also " + joined(shown, "; ");
  if (left_out > 0) out += "; and " + std::to_string(left_out) + " more that the tables show";
  if (!not_shown.empty())
    out += (out.empty() ? "It is not shown to change " : "; it is not shown to change ") + joined(not_shown);
  return out.empty() ? "" : out + ".";
}

// "policy (2 values), fraction (3)"
std::string keys_text(const RunFindings& run, const std::vector<std::string>& points) {
  std::vector<std::string> out;
  for (const auto& [key, unused] : run.interventions[run.intervention_index(points.front())].grid) {
    std::set<std::string> values;
    for (const std::string& point : points)
      for (const auto& [name, value] : run.interventions[run.intervention_index(point)].grid)
        if (name == key) values.insert(plain_text(value));
    out.push_back(key + " (" + std::to_string(values.size()) + (out.empty() ? " values)" : ")"));
  }
  return joined(out);
}

std::string point_text(const Intervention& point) {
  std::vector<std::string> out;
  for (const auto& [key, value] : point.grid) out.push_back(key + " = " + plain_text(value));
  return joined(out);
}

// Flags that change no result, and whether a value follows.
constexpr std::array<std::pair<std::string_view, bool>, 7> unheeded = {{{"--out", true},
                                                                        {"-o", true},
                                                                        {"--threads", true},
                                                                        {"--batch", true},
                                                                        {"--shard", true},
                                                                        {"--quiet", false},
                                                                        {"--json", false}}};

std::string finding(const std::string& anchor, const std::string& name, const std::string& does,
                    const std::vector<std::string>& sentences) {
  std::string out =
      "<div class=\"finding\" id=\"found-" + html_escape(anchor) + "\"><h3>" + html_escape(name) + "</h3>";
  if (!does.empty()) out += "<p class=\"note small\">" + html_escape(does) + "</p>";
  for (const std::string& sentence : sentences) out += "<p>" + html_escape(sentence) + "</p>";
  return out + "</div>\n";
}

}  // namespace

RunTitle title_of(const FindingsIndex& findings, const std::optional<Manifest>& manifest) {
  RunTitle out;
  const json::Value* given = manifest ? manifest->info.find("spec_given") : nullptr;
  if (given && given->type() == json::Type::object)
    for (const auto& [key, into] : {std::pair("title", &out.title), std::pair("question", &out.question)})
      if (const json::Value* text = given->find(key); text && text->is_string()) *into = text->string();
  std::vector<std::string> entries;
  for (const std::string& name : findings.main_names()) {
    const std::string& entry = findings.intervention(name).entry;
    if (entries.empty() || entries.back() != entry) entries.push_back(entry);
  }
  const std::string what = entries.empty() ? findings.baseline() : abridged(entries);
  if (out.title.empty()) out.title = what + (entries.empty() ? " alone" : " against " + findings.baseline());
  if (out.question.empty()) {
    const std::string metrics = abridged(findings.metrics());
    out.question = entries.empty() ? "What is " + metrics + " of the unedited model"
                                   : "What does " + what + " change in " + metrics;
    std::vector<std::string> conditions = told_conditions(findings);
    if (findings.conditions().size() > 1) out.question += ", under " + abridged(conditions);
    out.question += "?";
  }
  return out;
}

std::vector<std::string> intervention_sentences(const FindingsIndex& findings, const std::string& name) {
  const RunFindings& run = findings.run();
  const EditTotals* edits = run.all.edits_of(run.intervention_index(name));
  if (edits && edits->n_edits > 0 && edits->counts.edited_tokens == 0)
    return {"Its edits acted on none of " + std::to_string(edits->counts.tokens) +
            " tokens: the unedited model was run, and nothing is found about these edits."};
  const std::string& first = first_metric(findings);
  std::vector<std::string> out;
  for (std::string& sentence :
       std::vector<std::string>{first_effects(findings, name, first), specificity(findings, name, first),
                                other_effects(findings, name, first)})
    if (!sentence.empty()) out.push_back(std::move(sentence));
  return out;
}

std::vector<std::string> grid_sentences(const FindingsIndex& findings, const std::vector<std::string>& points) {
  const std::string& metric = first_metric(findings);
  const std::string n = std::to_string(points.size());
  std::vector<std::string> out = {n + " points over " + keys_text(findings.run(), points) + "."};
  for (const std::string& condition : told_conditions(findings)) {
    const ResultRow *lowest = nullptr, *highest = nullptr;
    size_t shown = 0, defined = 0;
    for (const std::string& point : points) {
      const ResultRow* row = findings.row(point, metric, condition);
      if (!row || !std::isfinite(row->difference.value)) continue;
      ++defined;
      shown += findings.shows(*row) && row->difference.value != 0;
      if (!lowest || row->difference.value < lowest->difference.value) lowest = row;
      if (!highest || row->difference.value > highest->difference.value) highest = row;
    }
    const std::string what = metric + under(findings, condition);
    if (defined == 0) {
      out.push_back("No point has a value of " + what + " to compare.");
      continue;
    }
    if (lowest->difference.value == 0 && highest->difference.value == 0) {
      out.push_back("No point changes " + what + ": all differences are exactly 0.");
      continue;
    }
    const auto extreme = [&](const ResultRow& row) {
      const int decimals = decimals_of(findings, metric);
      std::string text = format_difference(row.difference.value, decimals);
      if (std::isfinite(row.difference.lo))
        text += " " + format_interval(row.difference.lo, row.difference.hi, decimals, true);
      text += " (" + level_of(row) + ") at " + point_text(findings.intervention(row.intervention));
      return text + (row.controls.rank ? ", " + sets_text(row.controls) : "");
    };
    std::string sentence =
        "In " + what + " " + std::to_string(shown) + " of " + std::to_string(defined) +
        " points differ from the baseline (" +
        (findings.run().primary.has(points.front(), metric) && condition.empty() ? "q" : "q, or p without one,") +
        " below 0.05)";
    if (lowest->difference.value < 0) sentence += "; it falls most, " + extreme(*lowest);
    if (highest->difference.value > 0) sentence += "; it rises most, " + extreme(*highest);
    out.push_back(sentence + ". The largest of " + std::to_string(defined) + " is large partly by luck.");
  }
  return out;
}

std::string found_section(const FindingsIndex& findings) {
  const std::vector<TogetherTold> all = findings.together();
  if (all.empty()) return "";
  std::string out = "<h2 id=\"found\">What was found</h2>\n";
  size_t left_out = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    const TogetherTold& one = all[i];
    if (i >= most_told)
      left_out += one.names.size();
    else if (one.grid())
      out += finding(one.entry, one.entry, "", grid_sentences(findings, one.names));
    else
      out += finding(one.names[0], one.names[0], intervention_text(findings.intervention(one.names[0])),
                     intervention_sentences(findings, one.names[0]));
  }
  if (left_out > 0) out += "<p>" + std::to_string(left_out) + " more interventions stand in the tables below.</p>\n";
  return out;
}

std::string command_of(const Manifest& manifest) {
  const json::Value* argv = manifest.info.find("argv");
  if (!argv || argv->type() != json::Type::array || argv->items().empty()) return "";
  std::vector<std::string> words = {"signalbox"};
  for (size_t i = 0; i < argv->items().size(); ++i) {
    if (!argv->items()[i].is_string()) return "";
    const std::string& word = argv->items()[i].string();
    const std::string_view flag = std::string_view(word).substr(0, word.find('='));
    const auto found =
        std::find_if(unheeded.begin(), unheeded.end(), [&](const auto& one) { return one.first == flag; });
    if (found == unheeded.end())
      words.push_back(shell_word(word));
    else if (found->second && flag == word)
      ++i;
  }
  words.push_back("--out");
  words.push_back("DIR");
  return joined(words, " ");
}

}  // namespace signalbox::eval
