// Host arrays put together as one piece of bytes that will stand at another address, in the memory of a device.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::engine {

class HostImage {
 public:
  // The offset of the n values, a multiple of 16. An array that is added again stands there once: arrays are the same
  // where address and bytes agree, so that a longer list with the same beginning is not cut short.
  template <class T>
  size_t add(const T* values, int64_t n) {
    const size_t length = static_cast<size_t>(n) * sizeof(T);
    const auto [found, fresh] = offsets_.try_emplace({values, length}, bytes_.size());
    if (fresh) {
      const size_t offset = (bytes_.size() + 15) / 16 * 16;
      bytes_.resize(offset + length);
      std::memcpy(bytes_.data() + offset, values, length);
      found->second = offset;
    }
    return found->second;
  }
  template <class T>
  T* at(size_t offset) {
    return reinterpret_cast<T*>(bytes_.data() + offset);
  }
  const std::vector<unsigned char>& bytes() const { return bytes_; }

 private:
  std::vector<unsigned char> bytes_;
  std::map<std::pair<const void*, size_t>, size_t> offsets_;
};

}  // namespace signalbox::engine
