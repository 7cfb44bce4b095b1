// The same model in another basis: its stream turned by a random rotation and lengthened, the weights of its norms
// drawn anew, and every matrix changed so that nothing that it says changes.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>

namespace signalbox::test {

// A checkpoint of grouped-query attention stored as f32, all layers with experts, with its own output head.
void write_rotated_model(const std::string& model, double length, uint64_t seed,
                         const std::filesystem::path& directory);

// The same model with one expert's neurons in another order, each up row times a factor that its down column is divided
// by (order alone where the activation clamps).
void write_permuted_model(const std::string& model, int32_t layer, int32_t expert,
                          const std::filesystem::path& directory);

// The same model, an expert of which says nothing.
void write_silenced_model(const std::string& model, int32_t layer, int32_t expert,
                          const std::filesystem::path& directory);

}  // namespace signalbox::test
