#include "engine/resident_weights.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>

#include "base/error.h"
#include "base/memory.h"
#include "base/text.h"
#include "base/thread_pool.h"
#include "engine/device_weights.h"

namespace signalbox::engine {

namespace {

using Bytes = std::span<const std::byte>;

constexpr int64_t alignment = 64;
constexpr int64_t piece_bytes = int64_t{4} << 20;  // of one task: two large pages, and enough to keep a disk busy

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Rows that are copied: of a matrix's values, of its scales, or a vector.
struct Rows {
  const std::byte* from = nullptr;
  int64_t offset = 0;  // in the new memory
  int64_t rows = 0, bytes = 0, stride = 0;
  Bytes span(int64_t first, int64_t last) const {
    return {from + first * stride, static_cast<size_t>((last - first - 1) * stride + bytes)};
  }
};

struct Piece {
  size_t of = 0;
  int64_t first = 0, last = 0;  // rows
};

class Layout {
 public:
  // Places in the order of for_each_tensor, which is that of a forward. `weights` is only looked at.
  Layout(const Model& model, const Weights& weights) {
    Weights views = weights;
    for_each_tensor(model, views, [&](const TensorPlace& place) {
      if (place.vector) {
        if (*place.vector) add(place.vector->data, 1, place.vector->n * 4, place.vector->n * 4);
        return;
      }
      const Matrix& m = *place.matrix;
      if (!m) return;
      add(m.data, m.rows, element_bytes(m.dtype, m.cols), element_bytes(m.dtype, m.row_stride));
      const int64_t scale = scale_bytes(m.dtype);
      if (m.scales) add(m.scales, m.rows, m.cols / weight_block * scale, m.scale_stride * scale);
    });
  }

  int64_t bytes() const { return bytes_; }
  const std::vector<Rows>& all() const { return all_; }

  std::vector<Piece> pieces() const {
    std::vector<Piece> pieces;
    for (size_t i = 0; i < all_.size(); ++i) {
      const Rows& rows = all_[i];
      const int64_t at_once = std::max<int64_t>(1, piece_bytes / std::max<int64_t>(rows.bytes, 1));
      for (int64_t r = 0; r < rows.rows; r += at_once) pieces.push_back({i, r, std::min(rows.rows, r + at_once)});
    }
    return pieces;
  }

  // Makes the views of `weights` those of the copy.
  void apply(const Model& model, Weights& weights, const std::byte* memory) const {
    size_t next = 0;
    for_each_tensor(model, weights, [&](const TensorPlace& place) {
      if (place.vector) {
        if (*place.vector) place.vector->data = reinterpret_cast<const float*>(memory + all_[next++].offset);
        return;
      }
      Matrix& m = *place.matrix;
      if (!m) return;
      m.data = memory + all_[next++].offset;
      m.row_stride = m.cols;
      if (!m.scales) return;
      m.scales = reinterpret_cast<const uint8_t*>(memory + all_[next++].offset);
      m.scale_stride = m.cols / weight_block;
    });
    if (model.tied_embeddings) weights.lm_head = weights.embed;
  }

 private:
  void add(const void* from, int64_t rows, int64_t bytes, int64_t stride) {
    all_.push_back({static_cast<const std::byte*>(from), bytes_, rows, bytes, stride});
    bytes_ += (rows * bytes + alignment - 1) / alignment * alignment;
  }

  std::vector<Rows> all_;
  int64_t bytes_ = 0;
};

bool lies_in(const std::vector<Bytes>& files, Bytes bytes) {
  return std::any_of(files.begin(), files.end(), [&](Bytes file) {
    return bytes.data() >= file.data() && bytes.data() + bytes.size() <= file.data() + file.size();
  });
}

void copy_rows(const Rows& rows, const Piece& piece, std::byte* memory) {
  std::byte* to = memory + rows.offset + piece.first * rows.bytes;
  const std::byte* from = rows.from + piece.first * rows.stride;
  const int64_t n = piece.last - piece.first;
  if (rows.bytes == rows.stride) {
    std::memcpy(to, from, static_cast<size_t>(n * rows.bytes));
    return;
  }
  for (int64_t r = 0; r < n; ++r)
    std::memcpy(to + r * rows.bytes, from + r * rows.stride, static_cast<size_t>(rows.bytes));
}

void copy_all(const Layout& layout, std::byte* memory, const ResidentOptions& options) {
  const std::vector<Piece> pieces = layout.pieces();
  const auto n_pieces = static_cast<int64_t>(pieces.size());
  const auto source = [&](const Piece& piece) { return layout.all()[piece.of].span(piece.first, piece.last); };
  const int64_t ahead = 2 * std::max(1, options.threads);
  std::mutex mutex;
  int64_t done = 0;
  ThreadPool pool(std::max(1, options.threads));
  pool.parallel_for(n_pieces, [&](int64_t i, int) {
    const Piece& piece = pieces[static_cast<size_t>(i)];
    const Rows& rows = layout.all()[piece.of];
    const bool of_file = lies_in(options.mapped, source(piece));
    if (of_file && i + ahead < n_pieces) {
      const Bytes later = source(pieces[static_cast<size_t>(i + ahead)]);
      if (lies_in(options.mapped, later)) page_in_later(later);
    }
    if (of_file) page_in(source(piece));
    copy_rows(rows, piece, memory);
    // Rows of gate and up may take turns in a file: then its pages are needed once more.
    if (of_file && rows.bytes == rows.stride) page_out(source(piece));
    if (!options.on_progress) return;
    const std::lock_guard lock(mutex);
    done += (piece.last - piece.first) * rows.bytes;
    options.on_progress(done, layout.bytes());
  });
}

// Reads in what every token needs, in parallel; experts come as they are chosen.
void page_in_dense(const Model& model, const Weights& weights, const ResidentOptions& options) {
  Weights views = weights;
  std::vector<Bytes> pieces;
  for_each_tensor(model, views, [&](const TensorPlace& place) {
    if (!place.matrix || !*place.matrix || place.id.expert >= 0 || place.id.role == Role::embed) return;
    const Bytes all(static_cast<const std::byte*>(place.matrix->data),
                    static_cast<size_t>(stored_bytes(*place.matrix)));
    if (!lies_in(options.mapped, all)) return;
    for (size_t at = 0; at < all.size(); at += piece_bytes)
      pieces.push_back(all.subspan(at, std::min<size_t>(piece_bytes, all.size() - at)));
  });
  for (const Bytes& piece : pieces) page_in_later(piece);
  ThreadPool pool(std::max(1, options.threads));
  pool.parallel_for(static_cast<int64_t>(pieces.size()),
                    [&](int64_t i, int) { page_in(pieces[static_cast<size_t>(i)]); });
}

bool in_cache(Bytes bytes) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<uintptr_t>(bytes.data()) / page * page;
  const uintptr_t length = reinterpret_cast<uintptr_t>(bytes.data()) + bytes.size() - first;
  std::vector<unsigned char> pages((length + page - 1) / page);
  if (mincore(reinterpret_cast<void*>(first), length, pages.data()) != 0) return true;
  return std::any_of(pages.begin(), pages.end(), [](unsigned char p) { return p & 1; });
}

// Bytes a second that storage gives, by reading a little of what is in no cache; 0 where all is.
double storage_rate(const Layout& layout, const ResidentOptions& options) {
  const std::vector<Piece> pieces = layout.pieces();
  double bytes = 0;
  const double start = now();
  for (size_t i = pieces.size(); i-- > 0 && bytes < 64e6 && now() - start < 0.5;) {
    const Bytes source = layout.all()[pieces[i].of].span(pieces[i].first, pieces[i].last);
    if (!lies_in(options.mapped, source) || in_cache(source)) continue;
    page_in_later(source);
    page_in(source);
    bytes += static_cast<double>(source.size());
  }
  return bytes / (now() - start);
}

std::string shortage(const Model& model, const Weights& weights, const Layout& layout, int64_t available,
                     const ResidentOptions& options) {
  std::string text = "weights: read from their files as they are used, for the memory is short: expected " +
                     gigabytes(bytes_to_copy(layout.bytes())) + " available for a copy, found " + gigabytes(available);
  const double total = static_cast<double>(layout.bytes()), missing = 1 - static_cast<double>(available) / total;
  const double bytes = weight_bytes(model, weights, 1), rate = storage_rate(layout, options);
  text += "; a token reads " + gigabytes(static_cast<int64_t>(bytes));
  if (missing <= 0) return text + ", from pages of 4 KiB";
  char part[160];
  std::snprintf(part, sizeof part, ", about %.0f %% of it from storage", 100 * missing);
  text += part;
  if (rate > 0) {
    const double each = bytes * missing / rate;
    std::snprintf(part, sizeof part, " at the measured %.2f GB/s: about %.2g tokens a second at most", rate * 1e-9,
                  1 / each);
    text += part;
  }
  return text;
}

}  // namespace

const char* name_of(WeightMemory::Kind kind) {
  switch (kind) {
    case WeightMemory::Kind::copied: return "copied";
    case WeightMemory::Kind::mapped: return "mapped";
    default: return "in place";
  }
}

int64_t bytes_to_copy(int64_t weight_bytes) { return weight_bytes + weight_bytes / 10; }

WeightMemory make_resident(const Model& model, Weights& weights, const ResidentOptions& options) {
  using Kind = WeightMemory::Kind;
  const double start = now();
  const Layout layout(model, weights);
  WeightMemory memory;
  memory.bytes = layout.bytes();
  memory.available = options.available > 0 ? options.available : available_memory();
  const bool fits = bytes_to_copy(memory.bytes) < memory.available;
  if (options.policy == LoadPolicy::map)
    memory.kind = Kind::mapped;
  else if (options.policy == LoadPolicy::copy)
    memory.kind = Kind::copied;
  else if (memory.bytes >= options.least_bytes)
    memory.kind = fits ? Kind::copied : Kind::mapped;
  if (options.policy == LoadPolicy::none) return memory;
  if (memory.kind == Kind::copied) {
    if (!fits)
      throw Error("--load copy", "expected " + gigabytes(bytes_to_copy(memory.bytes)) +
                                     " of available memory for the weights and a tenth more, found " +
                                     gigabytes(memory.available));
    std::shared_ptr<HugeMemory> copy;
    try {
      copy = std::make_shared<HugeMemory>(static_cast<size_t>(memory.bytes));
    } catch (const std::bad_alloc&) {
      throw Error("--load copy", "expected " + gigabytes(memory.bytes) + " of memory for the weights, found less");
    }
    copy_all(layout, copy->data(), options);
    layout.apply(model, weights, copy->data());
    memory.huge_bytes = copy->huge_bytes();
    weights.owners.assign(1, std::move(copy));
  } else if (memory.kind == Kind::mapped) {
    if (!fits && memory.bytes >= options.least_bytes)
      memory.warning = shortage(model, weights, layout, memory.available, options);
    if (memory.bytes >= options.least_bytes) page_in_dense(model, weights, options);
  }
  memory.seconds = now() - start;
  return memory;
}

}  // namespace signalbox::engine
