// What decides the results of a long command, whatever it runs: parts of its manifest's identity.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::eval {

// What of an opened model, and of the settings that it is run with, decides results. Whoever opens it fills this in.
struct ModelFacts {
  std::string signalbox_version;
  std::string model_hash;
  std::vector<std::pair<std::string, std::string>> weight_hashes;  // name of a file and SHA-256 of its bytes
  std::optional<std::string> tokenizer_hash, template_hash;        // none: the model has none
  std::vector<int32_t> stop_tokens;
  std::string device, isa, numerics;
};

// {"model", "weights", "tokenizer", "chat_template"}.
json::Value model_hashes(const ModelFacts& facts);
// {name of a file: SHA-256}.
json::Value weights_json(const ModelFacts& facts);
json::Value stop_tokens_json(const ModelFacts& facts);

// SHA-256 of a file's bytes. Throws Error.
std::string file_hash(const std::filesystem::path& file);

// The files that a list of edits reads (rankings, traces, tensors), relative paths against `base_dir`; of a trace's
// directory the trace in it. Throws Error as EditSpec::parse does.
std::set<std::filesystem::path> files_of_edits(const json::Ref& edits, const std::filesystem::path& base_dir);

// {path relative to `base_dir`: SHA-256} of each file.
json::Value file_hashes(const std::set<std::filesystem::path>& files, const std::filesystem::path& base_dir);

// The date of work in `dir` whose template tells one and whose command gives none: the day on which it began; of new
// work today, in UTC. "2026-01-31". Throws Error when the directory's manifest is of another schema.
std::string date_of_work(const std::filesystem::path& dir, const std::string& schema);

}  // namespace signalbox::eval
