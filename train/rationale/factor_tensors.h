// Tensors of safetensors files as numbers.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/safetensors.h"
#include "train/namespaces.h"

namespace signalbox::train {

// A tensor of F64, F32, F16 or BF16 of this shape; -1: any size there. Throws Error naming file and tensor.
std::vector<double> read_doubles(const safetensors::File& file, const std::string& name,
                                 const std::vector<int64_t>& shape);
// Whole numbers of I64, I32, U32, I16, U16, I8 or U8.
std::vector<int64_t> read_integers(const safetensors::File& file, const std::string& name, int64_t n);
// [S + 1] from 0, never falling, each sentence of at least one row; `n_rows` at the end. Throws Error.
std::vector<int64_t> read_offsets(const safetensors::File& file, int64_t n_rows);
int64_t dimension(const safetensors::File& file, const std::string& name, size_t axis, size_t rank);

struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;
  const std::vector<double>* values = nullptr;
};
// As F32 or F64, and tensors of I64.
void write_tensors(const std::filesystem::path& file, const std::string& dtype, const std::vector<NamedTensor>& tensors,
                   const std::map<std::string, std::vector<int64_t>>& integers,
                   const std::map<std::string, std::string>& metadata);

}  // namespace signalbox::train
