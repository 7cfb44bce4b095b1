// A sparse mixture of experts from a dense model, without a gradient: dense checkpoint, carving, judgement, files.
//
// MODELDIR holds, when it is complete: the checkpoint (config.json, model.safetensors, tokenizer and generation files),
// dense/ (the dense model as a checkpoint, to compare with and to learn from), quality.csv, routes.csv, layers.csv,
// card.json, README.md, manifest.json and log.txt. Until then also carving/, from which a later process goes on.
#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "eval/data/records.h"
#include "eval/store/manifest.h"
#include "loaders/gguf/dense_model.h"
#include "loaders/open.h"
#include "train/namespaces.h"
#include "train/upcycle/judge.h"

namespace signalbox::train {

inline constexpr const char* upcycle_schema = "signalbox.upcycle/1";  // of manifest.json and card.json
inline constexpr const char *dense_dir = "dense", *carving_dir = "carving", *own_text_file = "own-text.jsonl",
                            *card_file = "card.json";

struct Upcycling {
  std::shared_ptr<const gguf::File> file;
  std::string file_hash;  // SHA-256
  std::filesystem::path dir;
  Manifest manifest;                              // schema and layout are filled in here
  std::optional<std::vector<Record>> data;        // none: text that the dense model writes
  std::optional<std::vector<Record>> evaluation;  // none: a part of the data
  CarveSettings carve;                            // with the seed of everything
  DType dtype = DType::f32;                       // of both checkpoints: f32, f16 or bf16
  int64_t own_records = 80, own_length = 256;     // of text that the model writes
  int threads = 1;
  OpenOptions open;   // of the CPU
  int64_t batch = 8;  // sequences at once; changes no bit
  std::function<void(const std::string& stage, int64_t done, int64_t total, const char* unit)> on_progress;
  std::function<void(const std::string&)> on_note;  // a line for people
  const std::atomic<bool>* interrupted = nullptr;
};

enum class UpcycleEnd : uint8_t { complete, was_complete, interrupted };

// Throws Error, as WorkDirectory does too: a directory that holds other work.
UpcycleEnd upcycle(const Upcycling& upcycling);

// What can be refused before anything is written: the file's model and tokenizer, the layout. Throws Error.
void check_upcycling(const Upcycling& upcycling);

// The files of a judgement; `about` goes into card.json in front.
struct CardInputs {
  const gguf::File* file = nullptr;
  std::string file_hash;
  const Upcycling* upcycling = nullptr;
  const UpcycleTexts* texts = nullptr;
  const std::vector<CarvedLayer>* layers = nullptr;
  const Judgement* judgement = nullptr;
};
void write_upcycle_files(const CardInputs& inputs, const std::filesystem::path& directory);

// The quality of all plans as a table of `width` columns (0: any), from a complete directory, and what it says in
// words.
std::string upcycle_table(const std::filesystem::path& directory, int width);
std::vector<std::string> upcycle_sentences(const std::filesystem::path& directory);

}  // namespace signalbox::train
