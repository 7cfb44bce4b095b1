// Memory that a thread keeps between ops. Grows to the largest request, 64-byte aligned, contents undefined.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "base/namespaces.h"

namespace signalbox::kernels::cpu {

class Scratch {
 public:
  float* floats(int64_t n) {
    if (n > capacity_) {
      memory_.reset();
      const size_t bytes = (static_cast<size_t>(n) * sizeof(float) + 63) / 64 * 64;
      memory_.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
      if (!memory_) {
        capacity_ = 0;
        throw std::bad_alloc();
      }
      capacity_ = n;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> memory_;
  int64_t capacity_ = 0;
};

}  // namespace signalbox::kernels::cpu
