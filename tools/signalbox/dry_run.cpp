#include "tools/signalbox/dry_run.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "tools/terminal/progress.h"

namespace signalbox::tools {

namespace {

using Rows = std::vector<std::vector<std::string>>;

size_t code_points(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string number_or_dash(int64_t n) { return n > 0 ? grouped(n) : "-"; }

std::string fixed(double value, int decimals) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

std::string seconds_or_dash(double seconds) { return std::isfinite(seconds) ? duration_text(seconds) : "-"; }

std::string records_text(const RunEstimate& estimate) {
  const bool conditions = std::any_of(estimate.parts.begin(), estimate.parts.end(),
                                      [](const EstimatedPart& part) { return !part.condition.empty(); });
  Rows rows = {{"records of"}};
  if (conditions) rows[0].push_back("condition");
  rows[0].push_back("records");
  for (const EstimatedPart& part : estimate.parts) {
    rows.push_back({part.split});
    if (conditions) rows.back().push_back(part.condition.empty() ? "-" : part.condition);
    rows.back().push_back(grouped(part.records));
  }
  return aligned_rows(rows, conditions ? std::vector<size_t>{0, 1} : std::vector<size_t>{0});
}

std::string entries_text(const RunEstimate& estimate) {
  Rows rows = {{"interventions of", "own", "random", "matched", "bottom", "all"}};
  for (const EstimatedEntry& entry : estimate.entries)
    rows.push_back({entry.entry + (entry.detected ? " *" : ""), grouped(entry.points), number_or_dash(entry.random),
                    number_or_dash(entry.frequency_matched), number_or_dash(entry.bottom), grouped(entry.all())});
  rows.push_back({"all", "", "", "", "", grouped(estimate.interventions)});
  return aligned_rows(rows, {0});
}

std::string stages_text(const RunEstimate& estimate) {
  Rows rows = {{"stage", "samples", "prefill", "generate", "about", "at most"}};
  TokenCount all;
  for (const EstimatedStage& one : estimate.stages) {
    all.given += one.tokens.given;
    all.generated += one.tokens.generated;
    const std::string name = one.resamples > 0 ? one.name + ", " + grouped(one.resamples) + " resamples" : one.name;
    rows.push_back({name, number_or_dash(one.samples), number_or_dash(one.tokens.given),
                    number_or_dash(one.tokens.generated), seconds_or_dash(one.seconds),
                    seconds_or_dash(one.most_seconds)});
  }
  rows.push_back({"all", grouped(estimate.samples()), grouped(all.given), grouped(all.generated),
                  seconds_or_dash(estimate.seconds()), seconds_or_dash(estimate.most_seconds())});
  return aligned_rows(rows, {0});
}

std::string speed_text(const RunEstimate& estimate) {
  const MeasuredSpeed& speed = estimate.speed;
  std::string text = "Times: measured for " + duration_text(speed.seconds) +
                     " with jobs of this run: " + grouped(std::llround(speed.given)) + " tokens/s prefill";
  if (speed.generated_tokens > 0) {
    text += ",\n" + grouped(std::llround(speed.generated)) + " tokens/s generated. ";
    text += speed.texts > 0 && speed.length < 1
                ? "\"About\": " + fixed(100 * speed.length, 0) + " % of max_tokens, as in " + grouped(speed.texts) +
                      " measured texts"
                : "All texts are counted with max_tokens";
  }
  return text + ".\nLoading and hashing the model come on top.\n";
}

}  // namespace

std::string aligned_rows(const Rows& rows, const std::vector<size_t>& left) {
  std::vector<size_t> widths;
  for (const auto& row : rows)
    for (size_t c = 0; c < row.size(); ++c) {
      if (widths.size() <= c) widths.push_back(0);
      widths[c] = std::max(widths[c], code_points(row[c]));
    }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      const std::string space(widths[c] - code_points(row[c]), ' ');
      const bool is_left = std::find(left.begin(), left.end(), c) != left.end();
      line += (c > 0 ? "  " : "") + (is_left ? row[c] + space : space + row[c]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string grouped(int64_t n) {
  std::string text = std::to_string(n);
  for (size_t at = text.size(); at > 3 + (n < 0 ? 1u : 0u); at -= 3) text.insert(at - 3, ",");
  return text;
}

std::string bytes_in_words(double bytes) {
  constexpr const char* units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  size_t unit = 0;
  for (; bytes >= 1000 && unit + 1 < std::size(units); ++unit) bytes /= 1000;
  return fixed(bytes, unit > 0 && bytes < 100 ? 1 : 0) + " " + units[unit];
}

std::string time_in_words(double seconds, double most) {
  std::string text = "about " + duration_text(seconds);
  if (most > 1.05 * seconds && duration_text(most) != duration_text(seconds))
    text += ", at most " + duration_text(most);
  return text;
}

std::string estimate_text(const RunEstimate& estimate, int64_t kept) {
  std::string text =
      "Nothing is written: this is what the run would do.\n\n" + records_text(estimate) + "\n" + entries_text(estimate);
  if (std::any_of(estimate.entries.begin(), estimate.entries.end(), [](const auto& entry) { return entry.detected; }))
    text += "* chosen by detection: counted as many as there can be\n";
  if (estimate.seeds > 1)
    text += grouped(estimate.seeds) + " seeds; what no seed touches is run with the first alone\n";
  text += "\n" + stages_text(estimate);
  text += "Tokens: at most; beginnings that samples share are counted once, as they are run.\n" + speed_text(estimate);
  if (estimate.judged > 0)
    text += "Judges: up to " + grouped(estimate.judged) + " texts, fewer where texts are alike; not timed.\n";
  const auto bytes = [](double about, double most) {
    return bytes_in_words(about) + (most > 1.05 * about ? " (at most " + bytes_in_words(most) + ")" : "");
  };
  text += "\ntime    " + time_in_words(estimate.seconds(), estimate.most_seconds());
  if (kept > 0)
    text += " for all; " + grouped(kept) + " of " + grouped(estimate.samples()) + " samples are kept from before";
  text += "\ndisk    samples " + bytes(estimate.samples_bytes, estimate.most_samples_bytes) +
          ", and as much in the journal until the end";
  if (estimate.most_traces_bytes > 0)
    text += "\n        traces " + bytes(estimate.traces_bytes, estimate.most_traces_bytes) +
            ", and the largest again while it is written";
  text += "\nmemory  weights " + bytes_in_words(static_cast<double>(estimate.weights_bytes)) + ", keys and values " +
          bytes_in_words(static_cast<double>(estimate.cache_bytes));
  if (estimate.logits_bytes > 0) text += ", logits up to " + bytes_in_words(static_cast<double>(estimate.logits_bytes));
  text += "\n";
  for (const std::string& note : estimate.notes) text += "note: " + note + "\n";
  return text;
}

json::Value estimate_json(const RunEstimate& estimate, int64_t kept) {
  const auto number = [](double value) { return std::isfinite(value) ? json::Value(value) : json::Value(); };
  json::Value records = json::Value::array(), entries = json::Value::array(), stages = json::Value::array(),
              notes = json::Value::array();
  for (const EstimatedPart& part : estimate.parts)
    records.push_back(json::Value::object()
                          .set("split", part.split)
                          .set("condition", part.condition.empty() ? json::Value() : json::Value(part.condition))
                          .set("records", part.records));
  for (const EstimatedEntry& entry : estimate.entries)
    entries.push_back(json::Value::object()
                          .set("entry", entry.entry)
                          .set("own", entry.points)
                          .set("random", entry.random)
                          .set("frequency_matched", entry.frequency_matched)
                          .set("bottom", entry.bottom)
                          .set("detected", entry.detected));
  TokenCount all;
  for (const EstimatedStage& one : estimate.stages) {
    all.given += one.tokens.given;
    all.generated += one.tokens.generated;
    stages.push_back(json::Value::object()
                         .set("stage", one.name)
                         .set("interventions", one.interventions)
                         .set("records", one.records)
                         .set("samples", one.samples)
                         .set("prefill_tokens", one.tokens.given)
                         .set("generated_tokens_at_most", one.tokens.generated)
                         .set("resamples", one.resamples)
                         .set("seconds", number(one.seconds))
                         .set("seconds_at_most", number(one.most_seconds)));
  }
  for (const std::string& note : estimate.notes) notes.push_back(note);
  const MeasuredSpeed& speed = estimate.speed;
  json::Value out = json::Value::object();
  out.set("records", std::move(records)).set("interventions", std::move(entries));
  out.set("n_interventions", estimate.interventions).set("seeds", estimate.seeds).set("deals", estimate.deals);
  out.set("stages", std::move(stages)).set("samples", estimate.samples()).set("samples_kept", kept);
  out.set("prefill_tokens", all.given).set("generated_tokens_at_most", all.generated);
  out.set("seconds", number(estimate.seconds())).set("seconds_at_most", number(estimate.most_seconds()));
  out.set("judged_texts", estimate.judged);
  out.set("disk", json::Value::object()
                      .set("samples", number(estimate.samples_bytes))
                      .set("samples_at_most", number(estimate.most_samples_bytes))
                      .set("traces", number(estimate.traces_bytes))
                      .set("traces_at_most", number(estimate.most_traces_bytes)));
  out.set("memory", json::Value::object()
                        .set("weights", estimate.weights_bytes)
                        .set("keys_and_values", estimate.cache_bytes)
                        .set("logits_at_most", estimate.logits_bytes));
  out.set("measured", json::Value::object()
                          .set("seconds", number(speed.seconds))
                          .set("prefill_tokens_per_second", number(speed.given))
                          .set("generated_tokens_per_second", number(speed.generated))
                          .set("seconds_per_sample_beside_the_model", number(speed.host))
                          .set("texts", speed.texts)
                          .set("text_length_of_max_tokens", number(speed.length)));
  return out.set("notes", std::move(notes));
}

}  // namespace signalbox::tools
