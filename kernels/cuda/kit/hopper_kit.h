// The part of the kit that needs sm_90a: each case is run in a process of its own, because a wrong assumption may hang
// or fault. No GPU has run any of it.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/kit/hopper.h"
#include "kernels/cuda/kit/instructions.h"
#include "kernels/cuda/runtime.h"

namespace signalbox::kernels::cuda {

using KitReport = std::function<void(const InstructionResult&)>;
struct KitCase {
  const char* name;
  std::function<void(const KitReport&)> run;
};
std::vector<KitCase> product_cases();  // wgmma
std::vector<KitCase> memory_cases();   // mbarrier, bulk copies, stmatrix, barriers, dependent launches, registers

class KitStream {
 public:
  KitStream() : stream_(make_stream()) {}
  ~KitStream() { destroy_stream(stream_); }
  KitStream(const KitStream&) = delete;
  KitStream& operator=(const KitStream&) = delete;
  operator Stream() const { return stream_; }

 private:
  Stream stream_;
};

// Device memory that goes with the scope.
class KitMemory {
 public:
  explicit KitMemory(size_t bytes) : at_(allocate_device(bytes)) {}
  template <class T>
  explicit KitMemory(const std::vector<T>& values) : KitMemory(values.size() * sizeof(T)) {
    const KitStream stream;
    copy_async(at_, values.data(), values.size() * sizeof(T), stream);
    synchronize(stream);
  }
  ~KitMemory() { free_device(at_); }
  KitMemory(const KitMemory&) = delete;
  KitMemory& operator=(const KitMemory&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(at_);
  }
  // What is there once the stream is done.
  template <class T>
  std::vector<T> get(size_t n, Stream stream) const {
    std::vector<T> values(n);
    copy_async(values.data(), at_, n * sizeof(T), stream);
    synchronize(stream);
    return values;
  }

 private:
  void* at_;
};

}  // namespace signalbox::kernels::cuda
