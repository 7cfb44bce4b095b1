// Names of models on the Hugging Face hub, and which of a repository's files are read.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::loaders {

// Names of the files that loading may need, at most one '*' in each; a snapshot may lack some of them, and others
// (pictures, weights in other formats) may be absent.
const std::vector<std::string>& snapshot_patterns();

struct HubName {
  std::string id, revision;  // "org/name" (old models: "name"), "main"
};
// "org/name[@revision]" as the hub allows names; nullopt for anything else.
std::optional<HubName> hub_name(const std::string& model);

}  // namespace signalbox::loaders
