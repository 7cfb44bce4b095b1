// Memory in bulk: how much there is, and areas of it in large pages.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace signalbox {

// Bytes that this process can still take without swapping: what the system has, or what its control group leaves.
int64_t available_memory();

// Anonymous memory for bulk data that is read again and again. Where the machine allows it, in pages of 2 MiB: a pass
// over gigabytes in pages of 4 KiB spends much of its time translating addresses, most of all in a virtual machine.
class HugeMemory {
 public:
  static constexpr size_t page = size_t{2} << 20;

  // Zeroed, 2 MiB aligned, no page taken before it is touched. Throws std::bad_alloc. Takes reserved huge pages
  // (hugetlbfs) where enough of them are free, asks for transparent ones otherwise; on machines of several memory nodes
  // pages take turns on all of them.
  // Pages::small: none of that, to compare.
  enum class Pages : uint8_t { large, small };
  explicit HugeMemory(size_t bytes, Pages pages = Pages::large);
  ~HugeMemory();
  HugeMemory(const HugeMemory&) = delete;
  HugeMemory& operator=(const HugeMemory&) = delete;

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  // Of the bytes that were touched, those in large pages now.
  int64_t huge_bytes() const;

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  void* mapped_ = nullptr;
  size_t mapped_bytes_ = 0;
  bool reserved_ = false;
};

// Whole pages within `bytes` of a mapped file: read them in now, all at once; ask for them; give them back (a later
// read brings them again). No effect where the system does not know how.
void page_in(std::span<const std::byte> bytes);
void page_in_later(std::span<const std::byte> bytes);
void page_out(std::span<const std::byte> bytes);

}  // namespace signalbox
