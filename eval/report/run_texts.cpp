#include "eval/report/run_texts.h"

#include <algorithm>
#include <map>

#include "eval/findings/format.h"
#include "eval/findings/metrics_file.h"
#include "eval/report/page_data.h"

namespace signalbox::eval {

namespace {

constexpr size_t n_examples = 3, n_example_interventions = 12;  // of the table without a script

// Texts that repeat are stored once: most edited texts are the baseline's.
class StringPool {
 public:
  int64_t add(const std::string& text) {
    const auto [found, is_new] = places_.emplace(text, static_cast<int64_t>(places_.size()));
    if (is_new) strings_.push_back(text);
    return found->second;
  }
  json::Value take() { return std::move(strings_); }

 private:
  std::map<std::string, int64_t> places_;
  json::Value strings_ = json::Value::array();
};

std::vector<std::string> conditions_in(const SampleDigest& digest) {
  std::vector<std::string> out;
  for (const ShownRecord& record : digest.records)
    if (std::find(out.begin(), out.end(), record.condition) == out.end()) out.push_back(record.condition);
  return out;
}

std::string what_is_shown(const SampleDigest& digest) {
  const auto shown = static_cast<int64_t>(digest.records.size());
  std::string out = "The first seed's first sample of " +
                    (shown == digest.n_records
                         ? "all " + std::to_string(shown) + " records"
                         : std::to_string(shown) + " of " + std::to_string(digest.n_records) +
                               " records (drawn without a look at them, pairs whole, as many as there is room for)") +
                    " under the " + std::to_string(digest.interventions.size()) +
                    " interventions that have rows of their own.";
  if (digest.n_cut > 0)
    out += " Of " + std::to_string(digest.n_cut) + " texts the first " + std::to_string(most_bytes_of_text) +
           " bytes are shown.";
  return out + " samples.jsonl has everything, controls and other samples too.";
}

// The first records whose text changed under an intervention, those with a changed score first.
std::vector<const ShownRecord*> examples_of(const SampleDigest& digest, size_t intervention) {
  std::vector<const ShownRecord*> out;
  for (const bool with_score : {true, false})
    for (const ShownRecord& record : digest.records)
      if (out.size() < n_examples && text_changed(record, intervention) &&
          score_changed(record, intervention) == with_score)
        out.push_back(&record);
  return out;
}

std::string scores_text(const SampleDigest& digest, const ShownText& base, const ShownText& one) {
  std::string out;
  for (size_t m = 0; m < digest.metrics.size(); ++m) {
    const std::string before = format_value(base.scores[m], 3), after = format_value(one.scores[m], 3);
    if (before != after) out += (out.empty() ? "" : "\n") + digest.metrics[m] + " " + before + " \xE2\x86\x92 " + after;
  }
  return out;
}

std::string example_table(const SampleDigest& digest, size_t intervention) {
  const std::vector<const ShownRecord*> examples = examples_of(digest, intervention);
  if (examples.empty()) return "";
  int64_t changed = 0, compared = 0;
  for (const ShownRecord& record : digest.records) {
    compared += record.texts[intervention].has;
    changed += text_changed(record, intervention);
  }
  const std::string& name = digest.interventions[intervention];
  std::string out = "<h3>" + html_escape(name) + ": " + std::to_string(examples.size()) + " of " +
                    std::to_string(changed) + " changed texts, of " + std::to_string(compared) +
                    " compared</h3><div class=\"wide\"><table class=\"texts\"><tr><th>record</th><th>" +
                    html_escape(digest.interventions[0]) + "</th><th>" + html_escape(name) +
                    "</th><th>scores</th></tr>";
  for (const ShownRecord* record : examples) {
    const ShownText &base = record->texts[0], &one = record->texts[intervention];
    out += "<tr><td><span class=\"note\">" + html_escape(record->id) + "</span>\n" + html_escape(record->question) +
           "</td><td>" + html_escape(base.text) + "</td><td>" + html_escape(one.text) + "</td><td>" +
           html_escape(scores_text(digest, base, one)) + "</td></tr>\n";
  }
  return out + "</table></div>\n";
}

}  // namespace

json::Value texts_json(const SampleDigest& digest) {
  StringPool pool;
  const std::vector<std::string> conditions = conditions_in(digest);
  json::Value records = json::Value::array();
  for (const ShownRecord& record : digest.records) {
    json::Value texts = json::Value::array();
    for (const ShownText& text : record.texts) {
      if (!text.has) {
        texts.push_back(json::Value());
        continue;
      }
      json::Value one = json::Value::array();
      one.push_back(pool.add(text.text)).push_back(pool.add(text.finish_reason));
      for (const double score : text.scores) one.push_back(json_number(score));
      texts.push_back(std::move(one));
    }
    const auto condition = std::find(conditions.begin(), conditions.end(), record.condition) - conditions.begin();
    records.push_back(json::Value::object()
                          .set("id", record.id)
                          .set("condition", static_cast<int64_t>(condition))
                          .set("question", pool.add(record.question))
                          .set("prompt", pool.add(record.prompt))
                          .set("texts", std::move(texts)));
  }
  const auto list = [](const std::vector<std::string>& names) {
    json::Value out = json::Value::array();
    for (const std::string& name : names) out.push_back(name);
    return out;
  };
  return json::Value::object()
      .set("interventions", list(digest.interventions))
      .set("metrics", list(digest.metrics))
      .set("conditions", list(conditions))
      .set("records", std::move(records))
      .set("strings", pool.take());
}

std::string texts_section(const SampleDigest& digest) {
  if (digest.records.empty() || digest.interventions.size() < 2) return "";
  std::string out =
      "<h2 id=\"texts\">Texts, before and after</h2>\n<figure id=\"texts-shown\" data-draw=\"run_texts\">"
      "<div class=\"place\">";
  for (size_t i = 1; i < std::min(digest.interventions.size(), n_example_interventions + 1); ++i)
    out += example_table(digest, i);
  return out + "</div><figcaption>" + html_escape(what_is_shown(digest)) + "</figcaption></figure>\n" +
         json_block("texts-data", texts_json(digest));
}

}  // namespace signalbox::eval
