// Which line of samples.jsonl belongs to which sample: the order of a run.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::eval {

// Indices into a Layout's lists, and the sample within the record.
struct Place {
  int64_t seed = 0, intervention = 0, record = 0, sample = 0;
  bool operator==(const Place&) const = default;
};

// Lines stand in the order seed, intervention, record, sample; interventions of the first seed only have none under the
// others.
struct Layout {
  std::vector<uint64_t> seeds;
  std::vector<std::string> interventions;  // names
  std::vector<uint8_t> first_seed_only;    // [interventions]; empty: none is
  std::vector<std::string> records;        // ids of the records of this directory (of one shard), in the data's order
  std::vector<int64_t> samples;            // [records] lines of each record under one seed and intervention, at least 1

  int64_t record_lines() const;  // of one seed and intervention: the sum of samples
  int64_t n_lines() const;
  bool has(int64_t seed, int64_t intervention) const;  // whether there are lines of these (indices)
  int64_t line(const Place& place) const;              // from 0; throws Error for a place outside
  Place place(int64_t line) const;
  // "seed 0, intervention "off", record "a", sample 1", for messages.
  std::string name(const Place& place) const;

  // Throws Error unless `line`, a parsed line of samples.jsonl, has the keys seed, intervention, id and sample of this
  // place.
  void check_line(const Place& place, const json::Ref& line) const;

  // Must be called after the lists were changed, before the functions above.
  void index();

  // {"seeds", "interventions", "first_seed_only", "records", "samples"}; first_seed_only lists names, and is absent
  // where there are none; samples is one number where all records have as many.
  json::Value to_json() const;
  static Layout from_json(const json::Ref& value);  // throws Error; indexed

 private:
  int64_t line_block(int64_t seed, int64_t intervention) const;

  std::vector<int64_t> starts_;    // [records + 1] first line of each record
  std::vector<int64_t> repeated_;  // interventions of every seed
};

}  // namespace signalbox::eval
