// Loading a model by name: the entry of every command.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/file_hash.h"
#include "base/namespaces.h"
#include "engine/model.h"
#include "engine/weights.h"
#include "loaders/model/files.h"

namespace signalbox::loaders {

// What can be known without reading weights.
struct LoadedConfig {
  ResolvedModel resolved;  // files, path, commit
  Model model;
  std::string family;           // model_type, for display only
  DType format = DType::other;  // of a checkpoint that signalbox quantize wrote: int8, int4 or mxfp4
  // End tokens: the union of generation_config.eos_token_id and config.eos_token_id, ascending. The tokenizer adds its
  // own (eos_text): the caller resolves the text to an id and joins it.
  std::vector<int32_t> stop_tokens;
  std::optional<int32_t> bos_token, pad_token;    // config.json's
  std::optional<std::string> bos_text, eos_text;  // tokenizer_config.json's
};

struct LoadedModel : LoadedConfig {
  Weights weights;
  std::vector<std::string> unknown_tensors;        // stored, but not of this model
  std::vector<std::span<const std::byte>> mapped;  // the weight files that are mapped
  std::string model_hash;  // SHA-256 over config.json and every tensor's name, dtype, shape and file size
};

// Cheap: reads config.json, generation_config.json and tokenizer_config.json. Throws Error naming file and key.
LoadedConfig load_config(const std::string& model);
LoadedConfig load_config(const ResolvedModel& resolved);

// Keys of generation_config.json, with their values, that change greedy text in transformers and are not applied here:
// "repetition_penalty = 1.05". Sampling values are not among them. Throws Error for a file that is no object.
std::vector<std::string> unapplied_generation(const ModelFiles& files);

// Everything, with the weights mapped (their pages are read when they are used). Throws Error.
LoadedModel load_model(const std::string& model);
LoadedModel load_model(const ResolvedModel& resolved);

// SHA-256 of every weight file, by name, in order of the files: reads all bytes, several files at once, except of files
// that `cache` knows (base/file_hash.h). on_progress(bytes, of_bytes) is called now and then, by one thread at a
// time. Throws Error.
std::vector<std::pair<std::string, std::string>> hash_weight_files(
    const ModelFiles& files, const HashCache& cache, const std::function<void(uint64_t, uint64_t)>& on_progress = {});

// Those of all files in one: SHA-256 of their lines "HASH NAME".
std::string hash_of_weights(const std::vector<std::pair<std::string, std::string>>& hashes);

}  // namespace signalbox::loaders
