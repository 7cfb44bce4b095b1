#include "tests/device/device.h"

#include "kernels/shim/shim_backend.h"
#include "kernels/shim/simt_order.h"
#include "tests/support.h"

namespace signalbox::test {

namespace {

constexpr uint32_t nan_bits = 0x7fc0beef;

size_t element_bytes(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

}  // namespace

DeviceTensor::DeviceTensor(Backend& backend, int64_t rows, int64_t cols, DType dtype, const std::vector<float>& values,
                           int64_t stride)
    : backend_(&backend), rows_(rows), cols_(cols), stride_(stride == 0 ? cols : stride), dtype_(dtype) {
  const size_t n = static_cast<size_t>(rows_ * stride_);
  std::vector<unsigned char> host(n * element_bytes(dtype));
  for (size_t i = 0; i < n; ++i) {
    const int64_t r = static_cast<int64_t>(i) / stride_, c = static_cast<int64_t>(i) % stride_;
    float x;
    std::memcpy(&x, &nan_bits, 4);
    if (!values.empty() && c < cols_) x = values[static_cast<size_t>(r * cols_ + c)];
    uint32_t bits;
    if (dtype != DType::f32 && c < cols_ && !values.empty()) x = rounded_bf16(x);
    std::memcpy(&bits, &x, 4);
    if (dtype == DType::f32) {
      std::memcpy(&host[i * 4], &bits, 4);
    } else {
      const uint16_t half = static_cast<uint16_t>(bits >> 16);
      std::memcpy(&host[i * 2], &half, 2);
    }
  }
  memory_ = backend.allocate(host.size());
  backend.upload(memory_.get(), host.data(), host.size());
}

Tensor DeviceTensor::view() const { return Tensor(static_cast<float*>(memory_.get()), rows_, cols_, stride_, dtype_); }

std::vector<float> DeviceTensor::get() const {
  const size_t n = static_cast<size_t>(rows_ * stride_);
  std::vector<unsigned char> host(n * element_bytes(dtype_));
  backend_->download(host.data(), memory_.get(), host.size());
  std::vector<float> out;
  out.reserve(static_cast<size_t>(rows_ * cols_));
  for (size_t i = 0; i < n; ++i) {
    if (static_cast<int64_t>(i) % stride_ >= cols_) continue;
    uint32_t bits = 0;
    if (dtype_ == DType::f32) {
      std::memcpy(&bits, &host[i * 4], 4);
    } else {
      uint16_t half;
      std::memcpy(&half, &host[i * 2], 2);
      bits = static_cast<uint32_t>(half) << 16;
    }
    float x;
    std::memcpy(&x, &bits, 4);
    out.push_back(x);
  }
  return out;
}

bool DeviceTensor::guards_hold() const {
  const size_t n = static_cast<size_t>(rows_ * stride_), width = element_bytes(dtype_);
  std::vector<unsigned char> host(n * width);
  backend_->download(host.data(), memory_.get(), host.size());
  const uint16_t nan_half = static_cast<uint16_t>(nan_bits >> 16);
  for (size_t i = 0; i < n; ++i) {
    if (static_cast<int64_t>(i) % stride_ < cols_) continue;
    if (width == 4 ? std::memcmp(&host[i * 4], &nan_bits, 4) != 0 : std::memcmp(&host[i * 2], &nan_half, 2) != 0)
      return false;
  }
  return true;
}

std::vector<float> normal_values(int64_t n, uint64_t seed, bool as_bf16) {
  Noise noise(seed);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& x : values) x = as_bf16 ? rounded_bf16(noise.normal()) : noise.normal();
  return values;
}

std::unique_ptr<Backend> one_device(const CudaOptions& options) {
  if (!gpu_only()) return make_shim_backend(options);
  REQUIRE_MESSAGE(have_gpu(), "--gpu-only: expected a GPU");
  return make_cuda_backend(options);
}

void for_each_device(const std::function<void(Backend&, const std::string&)>& test, bool invariant) {
  CudaOptions options;
  options.invariant = invariant;
  if (!gpu_only()) {
    const auto shim = make_shim_backend(options);
    const std::pair<simt::Order, const char*> orders[] = {{simt::Order::ascending, "shim, ascending"},
                                                          {simt::Order::descending, "shim, descending"},
                                                          {simt::Order::shuffled, "shim, shuffled"}};
    for (const auto& order : orders) {
      // Where every access is watched, one order shows all races.
      if (simt::watches_races() && order.first != simt::Order::shuffled) continue;
      simt::set_order(order.first, 5);
      CAPTURE(std::string(order.second));
      test(*shim, order.second);
    }
    simt::set_order(simt::Order::ascending, 0);
  }
  if (have_gpu()) {
    const auto gpu = make_cuda_backend(options);
    CAPTURE(gpu->name());
    test(*gpu, gpu->name());
  }
}

Worst compare(const std::vector<float>& got, const std::vector<float>& want, double absolute, double relative) {
  Worst worst;
  if (got.size() != want.size()) return {INFINITY, "sizes differ"};
  for (size_t i = 0; i < got.size(); ++i) {
    const double g = static_cast<double>(got[i]), w = static_cast<double>(want[i]);
    double excess = std::abs(g - w) - relative * std::abs(w) - absolute;
    if (std::isnan(excess)) excess = INFINITY;
    if (std::isinf(g) && g == w) excess = 0;
    if (excess > worst.excess)
      worst = {excess,
               "element " + std::to_string(i) + ": expected " + std::to_string(w) + ", found " + std::to_string(g)};
  }
  return worst;
}

}  // namespace signalbox::test
