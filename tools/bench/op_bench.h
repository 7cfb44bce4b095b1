// Speed of the op vocabulary on a backend, at shapes of released models.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "kernels/backend.h"
#include "kernels/cases/measured.h"
#include "tools/bench/random_model.h"
#include "tools/bench/timer.h"

namespace signalbox::tools {

struct OpSpeed {
  std::string op, model, shape;  // "matmul q", a released model's name, "tokens=1 n=2048 k=2048"
  int64_t tokens = 0;
  double seconds = 0;  // of one call
  double spread = 0;   // of the rounds (Timing)
  double flops = 0;    // floating-point operations of one call
  double bytes = 0;    // bytes that one call must read or write once: weights, keys and values, inputs, outputs
  double gflops() const { return flops / seconds * 1e-9; }
  double gbytes() const { return bytes / seconds * 1e-9; }
};
using OpReport = std::function<void(const OpSpeed&)>;

struct OpBenchOptions : cases::Measured {
  std::vector<BenchShape> shapes;
  bool moe_parts = true;                  // the ops of a routed block besides the whole
  size_t flush_bytes = 0;                 // what takes turns is larger than this together
  size_t piece_bytes = size_t{64} << 20;  // of random data
  Timer::Options timer;
};

// What suits the backend (kernels/cases/measured.h).
OpBenchOptions op_bench_options(const Backend& backend);

// Runs every measurement in turn and reports each as it is made.
void bench_ops(Backend& backend, const OpBenchOptions& options, const OpReport& report);

// Memory of the device with random values, as long as this lives.
class DeviceData {
 public:
  DeviceData(Backend& backend, RandomMemory& memory) : backend_(backend), memory_(memory) {}

  void* random(size_t bytes, DType dtype);                         // f32 in (-1, 1), bf16 of deviation 1
  void* room(size_t bytes);                                        // not initialised
  Tensor operand(int64_t rows, int64_t cols, bool filled = true);  // in the dtype that matrix products take
  Tensor floats(int64_t rows, int64_t cols, bool filled = true);
  template <class T>
  T* list(const std::vector<T>& values) {
    T* to = static_cast<T*>(room(values.size() * sizeof(T)));
    if (!values.empty()) backend_.upload(to, values.data(), values.size() * sizeof(T));
    return to;
  }

 private:
  Backend& backend_;
  RandomMemory& memory_;
  std::vector<std::shared_ptr<void>> owners_;
};

// The routed block of a layer.
struct RoutedBlock {
  const Moe* moe = nullptr;
  Activation activation;
  int64_t d_model = 0;
  std::vector<ExpertMatrices> layers;  // they take turns
  double expert_bytes = 0;             // of one expert's three matrices
};
// Experts, hidden states and outputs of n_tokens tokens: the whole, and its ops apart where asked for. Tokens choose
// their experts evenly; a single token's take turns, so that none is still in a cache.
void bench_routed(Backend& backend, Timer& timer, RandomMemory& memory, const RoutedBlock& block, int64_t n_tokens,
                  bool parts, size_t flush_bytes, const std::string& model, const OpReport& report);

// "a=1 b=2"
std::string sizes_text(std::initializer_list<std::pair<const char*, int64_t>> sizes);

}  // namespace signalbox::tools
