// The model that an adapter was made for, as far as its files tell, and what to say where it is put on another.
//
// Adapters are put on other models on purpose (of a base on its instructed sibling, of a quantised copy on the
// original), as PEFT does without a word: so it is told, and not refused. Shapes that do not fit are refused anyway
// (loaders/peft/read.h).
#pragma once
#include <filesystem>
#include <functional>
#include <string>

#include "base/namespaces.h"
#include "loaders/model/files.h"

namespace signalbox::loaders::peft {

inline constexpr const char* base_weights_key = "base_weights";  // in the metadata of adapter_model.safetensors

struct MadeFor {
  std::string name;     // base_model_name_or_path; empty: not said
  std::string weights;  // weights_hash of that model, which adapters of `train lora` tell; empty: not said
};
// Throws Error for files that read_adapter refuses, too.
MadeFor made_for(const std::filesystem::path& directory);

// Empty where `model` is what the adapter was made for, or where that is not known; else a line to tell. Where the
// adapter says which weights those were, these decide, and else the name: the last part of a path or of org/name,
// unless both are directories. `weights` is called where it is needed: it may read all of the model.
std::string other_base(const std::filesystem::path& adapter, const MadeFor& made, const ResolvedModel& model,
                       const std::function<std::string()>& weights);

}  // namespace signalbox::loaders::peft
