// For tests of the shim: kernels of the test's own, launched without a backend. Include it first.
#pragma once
#if !defined(SIGNALBOX_SHIM)
#define SIGNALBOX_SHIM
#include "kernels/shim/simt.h"
#endif
#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/runtime.h"

namespace signalbox::test::shim_run {

using namespace shim;

// Device memory as long as a vector, gone with the scope.
template <class T>
class Array {
 public:
  explicit Array(size_t n) : data_(static_cast<T*>(allocate_device(n * sizeof(T)))), n_(n) {}
  explicit Array(const std::vector<T>& values) : Array(values.size()) {
    std::memcpy(data_, values.data(), n_ * sizeof(T));
  }
  ~Array() { free_device(data_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  T* data() const { return data_; }
  std::vector<T> get() const { return {data_, data_ + n_}; }

 private:
  T* data_;
  size_t n_;
};

struct StreamOwner {
  Stream stream = make_stream();
  ~StreamOwner() { destroy_stream(stream); }
  operator Stream() const { return stream; }
};

inline const std::pair<simt::Order, std::string> orders[] = {{simt::Order::ascending, "ascending"},
                                                             {simt::Order::descending, "descending"},
                                                             {simt::Order::shuffled, "shuffled"}};

// Calls work in each order and goes back to the first.
template <class F>
void in_each_order(const F& work) {
  for (const auto& order : orders) {
    CAPTURE(order.second);
    simt::set_order(order.first, 3);
    work();
  }
  simt::set_order(simt::Order::ascending);
}

// Runs a kernel to its end.
template <class... P, class... A>
void go(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, A... arguments) {
  const StreamOwner stream;
  launch("test", kernel, grid, block, shared, stream, arguments...);
  synchronize(stream);
}

}  // namespace signalbox::test::shim_run
