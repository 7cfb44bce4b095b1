// Opening a model, whole: files, weights, device and text tools, as the engine's Session.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "loaders/model/files.h"

namespace signalbox::loaders {

// Where a model runs.
struct DeviceChoice {
  enum class Kind : uint8_t { automatic, cpu, cuda } kind = Kind::automatic;
  int index = 0;  // of a CUDA device
};
// "auto", "cpu" or "cuda[:N]"; nullopt for anything else.
std::optional<DeviceChoice> parse_device(const std::string& text);

struct OpenOptions {
  DeviceChoice device;                        // automatic: CUDA where the binary and the machine have it
  int threads = 0;                            // of the CPU; 0: all
  std::string isa = "auto";                   // of the CPU
  std::string numerics = "invariant";         // or "fast"
  int64_t chunk = 0;                          // given tokens a forward; 0: what suits the device (default_chunk)
  std::vector<std::string> adapters;          // directories of LoRA adapters: their sum changes the model
  bool merge_adapters = true;                 // into the weights; else Session::beside
  std::shared_ptr<const ModelFiles> builtin;  // what the name "builtin" leads to; null: nowhere
  // Called with what the model is, before its weights go anywhere: the place to refuse what it cannot do. May be empty.
  std::function<void(const ModelShape& shape)> on_model;
  std::function<void(const TensorId& id)> on_adapted;       // called for each tensor that merged adapters change
  std::function<void(const std::string& line)> on_note;     // what is to be told, and refuses nothing
  std::function<void(const std::string& line)> on_warning;  // what is to be told even where notes are not
  LoadPolicy load = LoadPolicy::automatic;                  // of the CPU: weights copied into memory, or mapped
  // Bytes that lie on the device, or in the copy, so far, and in all. Not called where weights are used where they are.
  std::function<void(int64_t done, int64_t total)> on_upload;
};

// Throws Error, also for a device that is not there.
std::unique_ptr<Backend> open_backend(const OpenOptions& options);

// `model`: a directory, org/name[@revision] in the Hugging Face cache, or "builtin" (loaders/model/files.h). Throws
// Error naming file and key, tensor or device.
Session open_session(const std::string& model, const OpenOptions& options);

// Tokenizer and template alone, from files that may hold nothing else; null where there is none.
struct TextTools {
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;
};
TextTools open_text(const ModelFiles& files);

}  // namespace signalbox::loaders
