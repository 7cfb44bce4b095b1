// Tests of kernels/cuda: the same op on a device and on the CPU backend. The device is the SIMT shim in three orders of
// threads and blocks, and a GPU where the build and the machine have one (skipped and counted otherwise).
#pragma once
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/ops/op_data.h"

namespace signalbox::test {

// What a value becomes when it is stored in bf16.
inline float rounded_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) <= 0x7f800000u) bits += 0x7fff + (bits >> 16 & 1);
  bits &= 0xffff0000u;
  std::memcpy(&x, &bits, 4);
  return x;
}

// Device memory that holds a host vector.
template <class T>
class Buffer {
 public:
  Buffer(Backend& backend, const std::vector<T>& values)
      : backend_(&backend), n_(values.size()), memory_(backend.allocate(n_ * sizeof(T))) {
    backend.upload(memory_.get(), values.data(), n_ * sizeof(T));
  }
  T* data() const { return static_cast<T*>(memory_.get()); }
  std::vector<T> get() const {
    std::vector<T> values(n_);
    backend_->download(values.data(), memory_.get(), n_ * sizeof(T));
    return values;
  }

 private:
  Backend* backend_;
  size_t n_;
  std::shared_ptr<void> memory_;
};

// A tensor on a device: [rows, cols] with `stride`, everything outside NaN, which guards_hold() checks.
class DeviceTensor {
 public:
  // values [rows * cols], row-major; empty: NaN.
  DeviceTensor(Backend& backend, int64_t rows, int64_t cols, DType dtype, const std::vector<float>& values = {},
               int64_t stride = 0);
  Tensor view() const;
  std::vector<float> get() const;  // [rows * cols]
  bool guards_hold() const;

 private:
  Backend* backend_;
  int64_t rows_, cols_, stride_;
  DType dtype_;
  std::shared_ptr<void> memory_;
};

// Normal values by a seed; rounded to bf16 if asked for, so that an operand holds them exactly.
std::vector<float> normal_values(int64_t n, uint64_t seed, bool as_bf16 = false);

// The shim, or the GPU where tests run on the GPU alone (--gpu-only).
std::unique_ptr<Backend> one_device(const CudaOptions& options = {});

// Calls `test` with every device there is (with --gpu-only the GPU alone), several times in other orders for the shim;
// `invariant` as asked.
void for_each_device(const std::function<void(Backend& device, const std::string& what)>& test, bool invariant = false);

// The largest |got - want| - relative * |want|, and where.
struct Worst {
  double excess = 0;
  std::string text;
};
Worst compare(const std::vector<float>& got, const std::vector<float>& want, double absolute, double relative);

}  // namespace signalbox::test
