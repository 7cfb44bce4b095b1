// What decides the bytes of a recorded trace: the identity of its manifest.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "base/sha256.h"
#include "eval/data/records.h"
#include "eval/store/facts.h"
#include "kernels/sampling.h"

namespace signalbox::eval {

// How text is generated, where nothing more special is said.
struct GenerationSettings {
  int64_t max_tokens = 128, samples = 1;
  Sampling sampling;
  std::vector<std::string> stop;
  bool ignore_eos = false;
};

struct RecordingInputs {
  ModelFacts model;
  json::Value work = json::Value::object();    // of the command itself; its members stand at the top level
  std::string data_hash;                       // hash_of_records()
  std::optional<GenerationSettings> generate;  // none: nothing is
  json::Value edits;                           // the array of an edit spec, or null
  std::filesystem::path edits_dir;             // its relative paths are relative to this
  uint64_t seed = 0;
  std::string points;  // as given
  bool compact = false;
  std::string model_name;                                  // as traces name it
  std::string special;                                     // how special tokens in texts are read (--special)
  json::Value template_variables = json::Value::object();  // with the date where one is printed
};

// SHA-256 of the records as they are read, whatever file they come from.
class RecordsHash {
 public:
  void add(const Record& record);
  std::string hex();

 private:
  Sha256 hash_;
};

// Manifest::identity. Reads files of edits. Throws Error.
json::Value recording_identity(const RecordingInputs& inputs);

}  // namespace signalbox::eval
