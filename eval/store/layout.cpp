#include "eval/store/layout.h"

#include <algorithm>
#include <functional>
#include <unordered_set>

#include "base/error.h"
#include "base/text.h"

namespace signalbox::eval {

namespace {

json::Value strings_json(const std::vector<std::string>& strings) {
  json::Value list = json::Value::array();
  for (const std::string& text : strings) list.push_back(text);
  return list;
}

std::vector<std::string> unique_strings(const json::Ref& list) {
  std::vector<std::string> strings;
  std::unordered_set<std::string_view> seen;
  strings.reserve(list.length());  // `seen` looks into it
  for (const json::Ref& item : list.items()) {
    strings.push_back(item.string());
    if (!seen.insert(strings.back()).second)
      item.fail("expected each name once, found \"" + strings.back() + "\" again");
  }
  return strings;
}

uint64_t seed_of(const json::Ref& value) {
  if (value.value().is_unsigned()) return static_cast<uint64_t>(value.value().integer());
  return static_cast<uint64_t>(value.integer(0, INT64_MAX));
}

}  // namespace

void Layout::index() {
  if (samples.size() != records.size())
    throw Error("layout", "expected samples for " + std::to_string(records.size()) + " records, found " +
                              std::to_string(samples.size()));
  starts_.assign(1, 0);
  for (int64_t n : samples) {
    if (n < 1) throw Error("layout", "expected at least 1 sample a record, found " + std::to_string(n));
    starts_.push_back(starts_.back() + n);
  }
  if (!first_seed_only.empty() && first_seed_only.size() != interventions.size())
    throw Error("layout", "expected for each of " + std::to_string(interventions.size()) +
                              " interventions whether it is of the first seed only, found " +
                              std::to_string(first_seed_only.size()));
  repeated_.clear();
  for (size_t i = 0; i < interventions.size(); ++i)
    if (first_seed_only.empty() || !first_seed_only[i]) repeated_.push_back(static_cast<int64_t>(i));
}

int64_t Layout::record_lines() const { return starts_.empty() ? 0 : starts_.back(); }

int64_t Layout::n_lines() const {
  if (seeds.empty()) return 0;
  const size_t later = (seeds.size() - 1) * repeated_.size();
  return static_cast<int64_t>(interventions.size() + later) * record_lines();
}

bool Layout::has(int64_t seed, int64_t intervention) const {
  return seed == 0 || first_seed_only.empty() || !first_seed_only.at(static_cast<size_t>(intervention));
}

// The place of a seed and intervention among all that have lines.
int64_t Layout::line_block(int64_t seed, int64_t intervention) const {
  if (seed == 0) return intervention;
  const auto at = std::lower_bound(repeated_.begin(), repeated_.end(), intervention) - repeated_.begin();
  return static_cast<int64_t>(interventions.size() + static_cast<size_t>(seed - 1) * repeated_.size()) + at;
}

int64_t Layout::line(const Place& place) const {
  const auto outside = [](int64_t index, size_t size) { return index < 0 || index >= static_cast<int64_t>(size); };
  if (outside(place.seed, seeds.size()) || outside(place.intervention, interventions.size()) ||
      !has(place.seed, place.intervention) || outside(place.record, records.size()) || place.sample < 0 ||
      place.sample >= samples[static_cast<size_t>(place.record)])
    throw Error("layout", "expected a place of the run, found seed " + std::to_string(place.seed) + ", intervention " +
                              std::to_string(place.intervention) + ", record " + std::to_string(place.record) +
                              ", sample " + std::to_string(place.sample));
  return line_block(place.seed, place.intervention) * record_lines() + starts_[static_cast<size_t>(place.record)] +
         place.sample;
}

Place Layout::place(int64_t line) const {
  if (line < 0 || line >= n_lines())
    throw Error("layout", "expected a line below " + std::to_string(n_lines()) + ", found " + std::to_string(line));
  const int64_t block = line / record_lines(), rest = line % record_lines();
  Place place;
  const auto first = static_cast<int64_t>(interventions.size()), later = static_cast<int64_t>(repeated_.size());
  place.seed = block < first ? 0 : 1 + (block - first) / later;
  place.intervention = block < first ? block : repeated_[static_cast<size_t>((block - first) % later)];
  place.record = std::upper_bound(starts_.begin(), starts_.end(), rest) - starts_.begin() - 1;
  place.sample = rest - starts_[static_cast<size_t>(place.record)];
  return place;
}

std::string Layout::name(const Place& place) const {
  return "seed " + std::to_string(seeds.at(static_cast<size_t>(place.seed))) + ", intervention " +
         in_quotes(interventions.at(static_cast<size_t>(place.intervention))) + ", id " +
         in_quotes(records.at(static_cast<size_t>(place.record))) + ", sample " + std::to_string(place.sample);
}

void Layout::check_line(const Place& place, const json::Ref& line) const {
  const json::Ref seed = line.at("seed"), intervention = line.at("intervention"), id = line.at("id"),
                  sample = line.at("sample");
  if (seed_of(seed) == seeds.at(static_cast<size_t>(place.seed)) &&
      intervention.string() == interventions.at(static_cast<size_t>(place.intervention)) &&
      id.string() == records.at(static_cast<size_t>(place.record)) && sample.integer() == place.sample)
    return;
  line.fail("expected the line of " + name(place) + ", found that of seed " + std::to_string(seed_of(seed)) +
            ", intervention " + in_quotes(intervention.string()) + ", id " + in_quotes(id.string()) + ", sample " +
            std::to_string(sample.integer()));
}

json::Value Layout::to_json() const {
  json::Value seed_list = json::Value::array();
  for (uint64_t seed : seeds) seed_list.push_back(seed);
  json::Value counts;
  if (std::adjacent_find(samples.begin(), samples.end(), std::not_equal_to<>()) == samples.end()) {
    counts = samples.empty() ? int64_t{1} : samples.front();
  } else {
    counts = json::Value::array();
    for (int64_t n : samples) counts.push_back(n);
  }
  json::Value value = json::Value::object();
  value.set("seeds", std::move(seed_list)).set("interventions", strings_json(interventions));
  std::vector<std::string> only;
  for (size_t i = 0; i < first_seed_only.size(); ++i)
    if (first_seed_only[i]) only.push_back(interventions[i]);
  if (!only.empty()) value.set("first_seed_only", strings_json(only));
  value.set("records", strings_json(records)).set("samples", std::move(counts));
  return value;
}

Layout Layout::from_json(const json::Ref& value) {
  value.reject_unknown({"seeds", "interventions", "first_seed_only", "records", "samples"});
  Layout layout;
  for (const json::Ref& seed : value.at("seeds").items()) layout.seeds.push_back(seed_of(seed));
  layout.interventions = unique_strings(value.at("interventions"));
  layout.first_seed_only.assign(layout.interventions.size(), 0);
  if (const auto only = value.find("first_seed_only"))
    for (const json::Ref& name : only->items()) {
      const auto found = std::find(layout.interventions.begin(), layout.interventions.end(), name.string());
      if (found == layout.interventions.end()) name.fail("expected an intervention, found \"" + name.string() + "\"");
      layout.first_seed_only[static_cast<size_t>(found - layout.interventions.begin())] = 1;
    }
  layout.records = unique_strings(value.at("records"));
  const json::Ref counts = value.at("samples");
  constexpr int64_t most = int64_t{1} << 31;
  if (counts.value().type() == json::Type::array) {
    if (counts.length() != layout.records.size())
      counts.fail("expected a number for each of " + std::to_string(layout.records.size()) + " records, found " +
                  std::to_string(counts.length()));
    for (const json::Ref& n : counts.items()) layout.samples.push_back(n.integer(1, most));
  } else {
    layout.samples.assign(layout.records.size(), counts.integer(1, most));
  }
  layout.index();
  return layout;
}

}  // namespace signalbox::eval
