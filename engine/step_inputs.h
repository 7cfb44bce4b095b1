// What a forward needs of the host: written into one image and uploaded in one transfer to addresses that stay, so that
// captured work finds the next step's inputs where the last ones stood.
#pragma once
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "kernels/backend.h"

namespace signalbox::engine {

class StepInputs {
 public:
  explicit StepInputs(Backend& backend) : backend_(backend) {}

  void begin() { image_.clear(); }
  // Room for n values; the order and the sizes of the calls decide the addresses.
  template <class T>
  size_t add(int64_t n) {
    const size_t offset = (image_.size() + alignment - 1) / alignment * alignment;
    image_.resize(offset + static_cast<size_t>(n) * sizeof(T));
    return offset;
  }
  template <class T>
  size_t add(std::span<const T> values, int64_t capacity) {
    const size_t offset = add<T>(capacity);
    if (!values.empty()) std::memcpy(image_.data() + offset, values.data(), values.size_bytes());
    return offset;
  }
  template <class T>
  T* host(size_t offset) {
    return reinterpret_cast<T*>(image_.data() + offset);
  }
  // Valid after upload().
  template <class T>
  T* device(size_t offset) const {
    return reinterpret_cast<T*>(static_cast<unsigned char*>(memory_.get()) + offset);
  }
  void upload();

 private:
  static constexpr size_t alignment = 64;
  Backend& backend_;
  std::vector<unsigned char> image_;
  std::shared_ptr<void> memory_;
  size_t bytes_ = 0;
};

}  // namespace signalbox::engine
