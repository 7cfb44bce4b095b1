#include "base/memory.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <new>
#include <sstream>
#include <string>

namespace signalbox {

namespace {

// Of <linux/mman.h> and <linux/mempolicy.h>, which older systems' headers lack.
constexpr int populate_read = 22, interleave = 3, huge_2mb = 21 << 26;

// A number in a file that holds nothing else ("max" is none), or -1.
int64_t number_in(const char* file) {
  std::ifstream in(file);
  int64_t value = -1;
  in >> value;
  return in ? value : -1;
}

// "key 123" in a file of such lines; 0 where there is none.
int64_t number_behind(const char* file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    std::istringstream fields(line);
    std::string found;
    int64_t value = 0;
    if (fields >> found >> value && found == key) return value;
  }
  return 0;
}

uintptr_t address(const void* p) { return reinterpret_cast<uintptr_t>(p); }

void advise(std::span<const std::byte> bytes, int advice, bool inner) {
  const uintptr_t size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  uintptr_t first = address(bytes.data()), last = first + bytes.size();
  first = (inner ? first + size - 1 : first) / size * size;
  last = (inner ? last : last + size - 1) / size * size;
  if (first < last) static_cast<void>(madvise(reinterpret_cast<void*>(first), last - first, advice));
}

// Pages take turns on the machine's memory nodes: threads of every node read every weight.
void spread_over_nodes(void* data, size_t bytes) {
  unsigned long mask = 0;
  int nodes = 0;
  std::error_code none;
  for (unsigned i = 0; i < 8 * sizeof mask; ++i) {
    if (!std::filesystem::exists("/sys/devices/system/node/node" + std::to_string(i), none)) continue;
    mask |= 1ul << i;
    ++nodes;
  }
  if (nodes > 1) static_cast<void>(syscall(SYS_mbind, data, bytes, interleave, &mask, 8 * sizeof mask, 0u));
}

}  // namespace

int64_t available_memory() {
  int64_t available = INT64_MAX;
  if (const int64_t kilobytes = number_behind("/proc/meminfo", "MemAvailable:")) available = kilobytes * 1024;
  const int64_t limit = number_in("/sys/fs/cgroup/memory.max"), used = number_in("/sys/fs/cgroup/memory.current");
  if (limit > 0 && used >= 0) {
    // Cached pages of files count as used, and go when they are in the way.
    const char* stat = "/sys/fs/cgroup/memory.stat";
    const int64_t cached = number_behind(stat, "inactive_file") + number_behind(stat, "active_file");
    available = std::min(available, std::max<int64_t>(0, limit - std::max<int64_t>(0, used - cached)));
  }
  return available;
}

HugeMemory::HugeMemory(size_t bytes, Pages pages) : bytes_(bytes) {
  const size_t whole = (std::max<size_t>(bytes, 1) + page - 1) / page * page;
  mapped_bytes_ = whole;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  const bool large = pages == Pages::large;
  mapped_ = large ? mmap(nullptr, whole, PROT_READ | PROT_WRITE, flags | MAP_HUGETLB | huge_2mb, -1, 0) : MAP_FAILED;
  reserved_ = mapped_ != MAP_FAILED;
  if (!reserved_) {
    mapped_bytes_ = whole + page;  // room to align
    mapped_ = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, -1, 0);
    if (mapped_ == MAP_FAILED) throw std::bad_alloc();
  }
  data_ = static_cast<std::byte*>(mapped_) + (page - address(mapped_) % page) % page;
  if (!reserved_) static_cast<void>(madvise(data_, whole, large ? MADV_HUGEPAGE : MADV_NOHUGEPAGE));
  spread_over_nodes(data_, whole);
}

HugeMemory::~HugeMemory() { munmap(mapped_, mapped_bytes_); }

int64_t HugeMemory::huge_bytes() const {
  if (reserved_) return static_cast<int64_t>(bytes_);
  std::ifstream maps("/proc/self/smaps");
  bool here = false;
  int64_t bytes = 0;
  for (std::string line; std::getline(maps, line);) {
    uintptr_t first = 0, last = 0;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " ", &first, &last) == 2) {
      here = first < address(data_) + bytes_ && last > address(data_);
    } else if (here && line.starts_with("AnonHugePages:")) {
      int64_t kilobytes = 0;
      std::istringstream(line.substr(14)) >> kilobytes;
      bytes += kilobytes * 1024;
    }
  }
  return std::min(bytes, static_cast<int64_t>(bytes_));
}

void page_in(std::span<const std::byte> bytes) { advise(bytes, populate_read, false); }
void page_in_later(std::span<const std::byte> bytes) { advise(bytes, MADV_WILLNEED, false); }
void page_out(std::span<const std::byte> bytes) { advise(bytes, MADV_DONTNEED, true); }

}  // namespace signalbox
