// Memory, transfers and graphs of the CUDA backend. The ops stand in the files that cuda_backend.h names.
#include <algorithm>
#include <cstring>
#include <deque>
#include <thread>

#include "kernels/cuda/cublas.h"
#include "kernels/cuda/cuda_backend.h"

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

// Memory requests below this size share slabs; larger ones stand alone. The shim gives each request its own memory, so
// that sanitizers see its end.
#if defined(SIGNALBOX_SHIM)
constexpr size_t slab_bytes = 0;
#else
constexpr size_t slab_bytes = size_t{64} << 20;
#endif
constexpr size_t allocation_alignment = 256;
constexpr size_t max_graphs = 256;

// Pinned memory through which uploads pass: the next piece is filled while earlier ones are on their way.
class PinnedRing {
 public:
  PinnedRing(size_t slot_bytes, size_t n_slots) : slot_bytes_(slot_bytes), slots_(n_slots) {}
  ~PinnedRing() {
    for (Slot& slot : slots_) free_pinned(slot.memory);
  }
  size_t slot_bytes() const { return slot_bytes_; }

  // Memory of slot_bytes that no transfer reads any more. Follow with sent() once its copy is enqueued.
  void* next() {
    Slot& slot = slots_[at_];
    if (!slot.memory) slot.memory = allocate_pinned(slot_bytes_);
    if (slot.sent) slot.sent->synchronize();
    return slot.memory;
  }
  void sent(Stream stream) {
    Slot& slot = slots_[at_];
    if (!slot.sent) slot.sent = std::make_unique<Event>();
    slot.sent->record(stream);
    at_ = (at_ + 1) % slots_.size();
  }

 private:
  struct Slot {
    void* memory = nullptr;
    std::unique_ptr<Event> sent;
  };
  size_t slot_bytes_;
  std::vector<Slot> slots_;
  size_t at_ = 0;
};

// One core does not copy as fast as the bus.
void parallel_copy(void* to, const void* from, size_t bytes) {
  constexpr size_t piece = size_t{2} << 20;
  const size_t n = std::min<size_t>({8, std::max(1u, std::thread::hardware_concurrency()), bytes / piece});
  if (n < 2) {
    std::memcpy(to, from, bytes);
    return;
  }
  std::vector<std::thread> threads;
  for (size_t i = 0; i < n; ++i) {
    threads.emplace_back([=] {
      const size_t first = bytes * i / n, last = bytes * (i + 1) / n;
      std::memcpy(static_cast<char*>(to) + first, static_cast<const char*>(from) + first, last - first);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

struct CudaBackend::State {
  PinnedRing small{size_t{128} << 10, 32}, large{size_t{16} << 20, 4};
  // The slab that small requests are cut from.
  std::shared_ptr<void> slab;
  size_t slab_used = 0;
  // Downloads that run beside the ops: their events, oldest first.
  struct Download {
    uint64_t ticket;
    std::unique_ptr<Event> done;
  };
  std::deque<Download> downloads;
  std::vector<std::unique_ptr<Event>> spare_events;
  uint64_t last_ticket = 0;
  Event produced;
  struct Kept {
    std::unique_ptr<Graph> graph;  // null: its work has been done once, uncaptured
  };
  std::map<std::vector<int64_t>, Kept> graphs;
  bool capturing = false;

  std::unique_ptr<Event> take_event() {
    if (spare_events.empty()) return std::make_unique<Event>();
    auto event = std::move(spare_events.back());
    spare_events.pop_back();
    return event;
  }
};

CudaBackend::CudaBackend(const CudaOptions& options) : options_(options), info_(open_device(options.device)) {
  stream_ = make_stream();
  drain_ = make_stream();
  drain_owner_ = std::shared_ptr<void>(nullptr, [drain = drain_](void*) { destroy_stream(drain); });
  state_ = std::make_unique<State>();
  if (!options_.invariant) cublas_available();  // loads it now, not in the middle of the first prompt
}

CudaBackend::~CudaBackend() {
  try {
    DEVICE_SPACE::synchronize(stream_);
    DEVICE_SPACE::synchronize(drain_);
  } catch (const Error&) {  // the error has been thrown where it was met
  }
  state_.reset();
  for (ScratchBlock& block : scratch_) block.memory.reset();
  destroy_stream(stream_);
}

std::string CudaBackend::name() const { return "cuda:" + std::to_string(info_.index); }
std::string CudaBackend::isa() const { return "sm_" + std::to_string(info_.major * 10 + info_.minor); }

std::shared_ptr<void> CudaBackend::allocate(size_t bytes) {
  if (state_->capturing) throw Error("CUDA graph", "expected no allocation while work is captured, found one");
  const size_t size = std::max<size_t>(bytes, 1);
  if (size > slab_bytes / 8) return std::shared_ptr<void>(allocate_device(size), free_device);
  const size_t rounded = (size + allocation_alignment - 1) / allocation_alignment * allocation_alignment;
  if (!state_->slab || state_->slab_used + rounded > slab_bytes) {
    state_->slab = std::shared_ptr<void>(allocate_device(slab_bytes), free_device);
    state_->slab_used = 0;
  }
  void* p = static_cast<char*>(state_->slab.get()) + state_->slab_used;
  state_->slab_used += rounded;
  return std::shared_ptr<void>(state_->slab, p);  // keeps the slab
}

std::shared_ptr<void> CudaBackend::allocate_host(size_t bytes) {
  // A run that ends early may leave a transfer under way. The buffer may outlive this backend: it keeps the stream.
  return std::shared_ptr<void>(allocate_pinned(std::max<size_t>(bytes, 1)),
                               [drain = drain_, owner = drain_owner_](void* p) {
                                 try {
                                   DEVICE_SPACE::synchronize(drain);
                                 } catch (const Error&) {  // it has been told, or will be
                                 }
                                 free_pinned(p);
                               });
}

void CudaBackend::upload(void* device, const void* host, size_t bytes) {
  if (state_->capturing) throw Error("CUDA graph", "expected no upload while work is captured, found one");
  PinnedRing& ring = bytes <= state_->small.slot_bytes() ? state_->small : state_->large;
  for (size_t at = 0; at < bytes; at += ring.slot_bytes()) {
    const size_t count = std::min(ring.slot_bytes(), bytes - at);
    void* pinned = ring.next();
    parallel_copy(pinned, static_cast<const char*>(host) + at, count);
    copy_async(static_cast<char*>(device) + at, pinned, count, stream_);
    ring.sent(stream_);
  }
}

void CudaBackend::download(void* host, const void* device, size_t bytes) {
  if (bytes == 0) return;
  copy_async(host, device, bytes, stream_);
  DEVICE_SPACE::synchronize(stream_);
}

uint64_t CudaBackend::download_later(void* host, const void* device, size_t bytes) {
  state_->produced.record(stream_);
  state_->produced.hold(drain_);
  if (bytes != 0) copy_async(host, device, bytes, drain_);
  State::Download download{++state_->last_ticket, state_->take_event()};
  download.done->record(drain_);
  state_->downloads.push_back(std::move(download));
  return state_->last_ticket;
}

void CudaBackend::wait(uint64_t ticket) {
  while (!state_->downloads.empty() && state_->downloads.front().ticket <= ticket) {
    state_->downloads.front().done->synchronize();
    state_->spare_events.push_back(std::move(state_->downloads.front().done));
    state_->downloads.pop_front();
  }
}

void CudaBackend::copy(void* to, const void* from, size_t bytes) { copy_async(to, from, bytes, stream_); }
void CudaBackend::fill(void* device, uint8_t byte, size_t bytes) { fill_async(device, byte, bytes, stream_); }
void CudaBackend::synchronize() { DEVICE_SPACE::synchronize(stream_); }

void* CudaBackend::scratch(Scratch use, size_t bytes) {
  ScratchBlock& block = scratch_[static_cast<size_t>(use)];
  if (block.bytes < bytes) {
    if (state_->capturing) throw Error("CUDA graph", "expected scratch memory to be there, found it too small");
    forget_graphs();
    DEVICE_SPACE::synchronize(stream_);  // work that still uses the old block
    block.memory.reset();
    block.bytes = 0;
    block.memory = allocate(bytes);
    block.bytes = bytes;
    fill(block.memory.get(), 0, bytes);  // counters begin at 0
  }
  return block.memory.get();
}

void* CudaBackend::stage(const void* host, size_t bytes) {
  void* device = scratch(Scratch::edit, bytes);
  upload(device, host, bytes);
  return device;
}

void CudaBackend::replay(std::span<const int64_t> key, const std::function<void()>& work) {
  if (!options_.graphs) {
    work();
    return;
  }
  std::vector<int64_t> name(key.begin(), key.end());
  auto found = state_->graphs.find(name);
  if (found == state_->graphs.end()) {
    work();  // may allocate, and so forget graphs
    if (state_->graphs.size() >= max_graphs) forget_graphs();
    state_->graphs.emplace(std::move(name), State::Kept{});
    return;
  }
  if (!found->second.graph) {
    Graph::begin(stream_);
    state_->capturing = true;
    std::unique_ptr<Graph> graph;
    try {
      work();
      state_->capturing = false;
      graph = Graph::end(stream_);
    } catch (...) {
      if (state_->capturing) {
        state_->capturing = false;
        try {
          Graph::end(stream_);
        } catch (const Error&) {  // what ended the capture is thrown below
        }
      }
      throw;
    }
    if (!graph) {  // no memory for it: give back the others, and do without
      forget_graphs();
      work();
      return;
    }
    found->second.graph = std::move(graph);
  }
  found->second.graph->launch(stream_);
}

void CudaBackend::forget_graphs() {
  if (state_->graphs.empty()) return;
  try {
    DEVICE_SPACE::synchronize(stream_);
  } catch (const Error&) {  // destructors come here after a failed kernel; the next op tells of it again
  }
  state_->graphs.clear();
}

}  // namespace signalbox::kernels::DEVICE_SPACE
