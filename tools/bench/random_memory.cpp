#include "tools/bench/random_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "base/error.h"
#include "base/half.h"
#include "base/memory.h"

namespace signalbox::tools {

namespace {

uint64_t mix(uint64_t i) {
  uint64_t x = (i + 1) * 0x9e3779b97f4a7c15ull;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return x ^ x >> 31;
}

// Uniform in (-1, 1), never 0.
float unit_value(uint64_t bits) { return (static_cast<float>(bits & 0xffffff) + 0.5f) * 0x1p-23f - 1; }

std::vector<unsigned char> make_piece(RandomMemory::Kind kind, size_t bytes) {
  using Kind = RandomMemory::Kind;
  constexpr float deviation = 1.7320508f;  // a uniform value in (-a, a) has the standard deviation a / sqrt(3)
  std::vector<unsigned char> piece(bytes);
  switch (kind) {
    case Kind::weights:
    case Kind::embeddings: {
      const float scale = deviation * (kind == Kind::weights ? 0.02f : 1.f);
      for (size_t i = 0; i + 4 <= bytes; i += 4) {
        const uint64_t random = mix(i);
        const uint16_t pair[2] = {bf16_of_float(scale * unit_value(random)),
                                  bf16_of_float(scale * unit_value(random >> 32))};
        std::memcpy(piece.data() + i, pair, 4);
      }
      break;
    }
    case Kind::unit:
    case Kind::biases:
      for (size_t i = 0; i + 4 <= bytes; i += 4) {
        const float x = (kind == Kind::unit ? 1.f : 0.02f * deviation) * unit_value(mix(i));
        std::memcpy(piece.data() + i, &x, 4);
      }
      break;
    case Kind::nibbles:
      for (size_t i = 0; i + 8 <= bytes; i += 8) {
        const uint64_t random = mix(i);
        std::memcpy(piece.data() + i, &random, 8);
      }
      break;
    case Kind::exponents:  // e2m1 values have the deviation 2.9: 2^-7 * 2.9 = 0.02
      for (size_t i = 0; i < bytes; ++i) piece[i] = static_cast<unsigned char>(119 + mix(i) % 3);
      break;
  }
  return piece;
}

// Not a multiple of usual row lengths, so that rows of matrices differ.
size_t whole_pages(size_t bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return (std::max<size_t>(bytes, 1) + page - 1) / page * page;
}

[[noreturn]] void no_memory(size_t bytes) {
  throw Error("random weights",
              "expected " + std::to_string(bytes) + " bytes of memory, found less (" + std::strerror(errno) + ")");
}

}  // namespace

// A range of addresses that shows the piece over and over.
struct RandomMemory::Mapping {
  Mapping(const std::vector<unsigned char>& piece, size_t least_bytes) {
    const int file = memfd_create("signalbox-bench", MFD_CLOEXEC);
    bytes = (least_bytes + piece.size() - 1) / piece.size() * piece.size();
    if (file < 0) no_memory(bytes);
    bool good = ftruncate(file, static_cast<off_t>(piece.size())) == 0;
    size_t written = 0;
    while (good && written < piece.size()) {
      const ssize_t n = write(file, piece.data() + written, piece.size() - written);
      good = n > 0;
      if (good) written += static_cast<size_t>(n);
    }
    void* range =
        good ? mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) : MAP_FAILED;
    good = range != MAP_FAILED;
    if (good) begin = static_cast<unsigned char*>(range);
    for (size_t at = 0; good && at < bytes; at += piece.size())
      good = mmap(begin + at, piece.size(), PROT_READ, MAP_SHARED | MAP_FIXED, file, 0) != MAP_FAILED;
    const int failure = errno;
    close(file);
    if (!good) {
      if (begin) munmap(begin, bytes);
      errno = failure;
      no_memory(bytes);
    }
  }
  ~Mapping() { munmap(begin, bytes); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  unsigned char* begin = nullptr;
  size_t bytes = 0;
};

RandomMemory::RandomMemory(bool aliased, size_t piece_bytes, bool small_pages)
    : aliased_(aliased), small_pages_(small_pages), piece_bytes_(whole_pages(piece_bytes)) {}
RandomMemory::~RandomMemory() = default;

const std::vector<unsigned char>& RandomMemory::piece(Kind kind) {
  std::vector<unsigned char>& piece = pieces_[kind];
  if (piece.empty()) piece = make_piece(kind, piece_bytes_);
  return piece;
}

std::shared_ptr<const void> RandomMemory::view(Kind kind, size_t bytes) {
  const std::vector<unsigned char>& source = piece(kind);
  const size_t first = next_;
  next_ = (next_ + bytes / 64 * 64 + 64 * 1021) % source.size() / 64 * 64;
  if (aliased_) {
    std::shared_ptr<Mapping>& mapping = mappings_[kind];
    if (!mapping || mapping->bytes < first + bytes)  // views of the old one keep it
      mapping = std::make_shared<Mapping>(source, std::max(first + bytes, mapping ? 2 * mapping->bytes : 0));
    return {mapping, mapping->begin + first};
  }
  const size_t size = std::max<size_t>(bytes, 1);
  void* memory = nullptr;
  std::shared_ptr<const void> owner;
  if (size >= HugeMemory::page && !small_pages_) {
    auto pages = std::make_shared<HugeMemory>(size);
    memory = pages->data();
    owner = {pages, memory};
  } else {
    memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) no_memory(bytes);
    if (small_pages_) static_cast<void>(madvise(memory, size, MADV_NOHUGEPAGE));  // where the system gives them unasked
    owner = {memory, [size](const void* p) { munmap(const_cast<void*>(p), size); }};
  }
  for (size_t at = 0, from = first; at < bytes; from = 0) {
    const size_t count = std::min(bytes - at, source.size() - from);
    std::memcpy(static_cast<unsigned char*>(memory) + at, source.data() + from, count);
    at += count;
  }
  return owner;
}

}  // namespace signalbox::tools
