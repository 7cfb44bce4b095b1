// Streams and memory of the shim's device, and with them kernels/cuda/runtime.h on the host.
#include "kernels/cuda/runtime.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "kernels/shim/guards.h"

namespace simt {

namespace {

constexpr size_t total_memory = size_t{4} << 30;
constexpr size_t max_queued = 4096;

using Lock = std::lock_guard<std::recursive_mutex>;

bool deferred = false;

struct Memory {
  size_t bytes = 0;
  bool pinned = false;
};
struct Heap {
  std::map<uintptr_t, Memory> all;
  size_t used = 0;
  struct Range {
    uintptr_t first, end;
  };
  Range recent[4] = {};  // pieces that were asked about
  size_t oldest = 0;
};
Heap& heap() {
  static Heap* one = new Heap;
  return *one;
}

std::vector<StreamState*>& streams() {
  static auto* all = new std::vector<StreamState*>;
  return *all;
}

}  // namespace

void set_deferred(bool on) {
  const Lock lock(mutex());
  finish_all();
  deferred = on;
}

StreamState::StreamState() {
  const Lock lock(mutex());
  streams().push_back(this);
}
StreamState::~StreamState() {
  const Lock lock(mutex());
  finish();
  std::erase(streams(), this);
}

void StreamState::enqueue(Launch launch) {
  check_launch(launch);
  enqueue([launch = std::move(launch)] { run(launch); });
}

void StreamState::enqueue(std::function<void()> work) {
  const Lock lock(mutex());
  if (current) fail("a kernel gives work to a stream");
  if (capturing) {
    captured.push_back(std::move(work));
    return;
  }
  queue_.push_back(std::move(work));
  if (!deferred || queue_.size() - first_ > max_queued) finish();
}

void StreamState::finish(uint64_t n) {
  const Lock lock(mutex());
  while (first_ < queue_.size() && n_done_ < n) {
    const std::function<void()> work = std::move(queue_[first_]);
    ++first_;
    ++n_done_;
    work();
  }
  if (first_ == queue_.size()) {
    queue_.clear();
    first_ = 0;
  }
}

void finish_all() {
  const Lock lock(mutex());
  for (StreamState* stream : streams()) stream->finish();
}
void finish_stream(Stream* stream, uint64_t n) {
  const Lock lock(mutex());
  if (std::find(streams().begin(), streams().end(), stream) != streams().end()) stream->finish(n);
}
bool is_stream(Stream* stream) {
  const Lock lock(mutex());
  return std::find(streams().begin(), streams().end(), stream) != streams().end();
}
bool any_capture() {
  const Lock lock(mutex());
  return std::any_of(streams().begin(), streams().end(), [](const StreamState* s) { return s->capturing; });
}

// ---- memory

void* allocate(size_t bytes, bool pinned) {
  const Lock lock(mutex());
  Heap& h = heap();
  if (!pinned && (bytes > total_memory || h.used > total_memory - bytes)) return nullptr;
  void* base = nullptr;
  const size_t around = guard_bytes;
  if (posix_memalign(&base, 256, bytes + 2 * around) != 0) return nullptr;
  auto* p = static_cast<unsigned char*>(base) + around;
  fill_guard(p - around, p);
  fill_guard(p + bytes, p + bytes + around);
  std::memset(p, 0xff, bytes);
  ASAN_POISON_MEMORY_REGION(p - around, around);
  ASAN_POISON_MEMORY_REGION(p + bytes, around);
  h.all[reinterpret_cast<uintptr_t>(p)] = {bytes, pinned};
  if (!pinned) h.used += bytes;
  return p;
}

void release(void* p) {
  if (!p) return;
  const Lock lock(mutex());
  finish_all();  // as cudaFree waits
  Heap& h = heap();
  const auto found = h.all.find(reinterpret_cast<uintptr_t>(p));
  if (found == h.all.end()) fail("frees memory that was not allocated");
  const Memory memory = found->second;
  h.all.erase(found);
  if (!memory.pinned) h.used -= memory.bytes;
  for (Heap::Range& range : h.recent) range = {};
  auto* data = static_cast<unsigned char*>(p);
  ASAN_UNPOISON_MEMORY_REGION(data - guard_bytes, memory.bytes + 2 * guard_bytes);
  if (!guard_holds(data - guard_bytes, data) || !guard_holds(data + memory.bytes, data + memory.bytes + guard_bytes))
    fail("something has written outside a piece of device memory of " + std::to_string(memory.bytes) + " bytes");
  std::free(data - guard_bytes);
}

size_t room() {
  const Lock lock(mutex());
  return total_memory - heap().used;
}

bool is_memory(const void* p, size_t bytes) {
  std::unique_lock<std::recursive_mutex> lock(mutex(), std::defer_lock);
  if (!current) lock.lock();  // whoever runs a kernel has it
  Heap& h = heap();
  const auto at = reinterpret_cast<uintptr_t>(p);
  for (const Heap::Range& range : h.recent)
    if (at >= range.first && at < range.end) return at + bytes <= range.end;
  auto next = h.all.upper_bound(at);
  if (next == h.all.begin()) return false;
  --next;
  if (at >= next->first + next->second.bytes) return false;
  h.recent[h.oldest++ % 4] = {next->first, next->first + next->second.bytes};
  return at + bytes <= next->first + next->second.bytes;
}

}  // namespace simt

namespace signalbox::kernels::shim {

namespace {

using Clock = std::chrono::steady_clock;

void refuse_in_capture(const char* what) {
  if (::simt::any_capture()) ::simt::fail(std::string(what) + " while a stream is captured");
}

void* allocate(size_t bytes, bool pinned) {
  refuse_in_capture("allocates memory");
  void* p = ::simt::allocate(bytes, pinned);
  if (!p)
    throw Error("device memory", "expected room for " + std::to_string(bytes) + " bytes, found " +
                                     std::to_string(::simt::room()) + " free");
  return p;
}

}  // namespace

std::string unavailable() { return {}; }

DeviceInfo open_device(int index) {
  if (index != 0) throw Error("--device", "expected device 0 of 1, found " + std::to_string(index));
  DeviceInfo info;
  info.name = "shim";
  info.major = 9;
  info.n_processors = 4;
  info.total_bytes = size_t{4} << 30;
  info.l2_bytes = 50 << 20;
  info.shared_bytes = 227 << 10;
  info.driver_version = 13000;
  return info;
}

size_t free_device_bytes() { return ::simt::room(); }

void* allocate_device(size_t bytes) { return allocate(bytes, false); }
void free_device(void* p) noexcept { ::simt::release(p); }
void* allocate_pinned(size_t bytes) { return allocate(bytes, true); }
void free_pinned(void* p) noexcept { ::simt::release(p); }

Stream make_stream() { return new ::simt::StreamState; }
void destroy_stream(Stream stream) noexcept { delete stream; }
void synchronize(Stream stream) {
  if (!::simt::is_stream(stream)) ::simt::fail("waits for a stream that has been destroyed");
  if (stream->capturing) ::simt::fail("waits for a stream that is captured");
  stream->finish();
}

void copy_async(void* to, const void* from, size_t bytes, Stream stream) {
  if (bytes == 0) return;
  const bool to_known = ::simt::is_memory(to, bytes), from_known = ::simt::is_memory(from, bytes);
  if (!to_known && !from_known) ::simt::fail("a copy with neither end in device memory or pinned memory");
  stream->enqueue([=] { std::memcpy(to, from, bytes); });
  if (to_known && from_known) return;
  // Memory that is not pinned: a device does not return before it is done with it, and cannot capture this.
  if (stream->capturing) ::simt::fail("a copy of memory that is not pinned is captured");
  stream->finish();
}
void fill_async(void* to, uint8_t byte, size_t bytes, Stream stream) {
  if (bytes == 0) return;
  if (!::simt::is_memory(to, bytes)) ::simt::fail("fills memory outside device memory");
  stream->enqueue([=] { std::memset(to, byte, bytes); });
}

struct Event::State {
  Stream stream = nullptr;  // null: not recorded
  uint64_t n = 0;           // pieces of its work up to the record
  std::shared_ptr<Clock::time_point> time;
};
Event::Event(bool) : state_(std::make_unique<State>()) {}
Event::~Event() = default;
void Event::record(Stream stream) {
  if (stream->capturing) ::simt::fail("records an event in a stream that is captured");
  auto time = std::make_shared<Clock::time_point>();
  stream->enqueue([time] { *time = Clock::now(); });
  *state_ = {stream, stream->n_enqueued(), std::move(time)};
}
void Event::synchronize() {
  if (state_->stream) ::simt::finish_stream(state_->stream, state_->n);
}
bool Event::done() const {
  if (state_->stream) ::simt::finish_stream(state_->stream, state_->n);
  return true;
}
void Event::hold(Stream stream) {
  if (stream->capturing) ::simt::fail("a stream that is captured waits for an event outside");
  if (!state_->stream) return;
  stream->enqueue([other = state_->stream, n = state_->n] { ::simt::finish_stream(other, n); });
}
double Event::seconds(Event& from, Event& to) {
  if (!from.state_->stream || !to.state_->stream) ::simt::fail("time between events of which one was not recorded");
  from.synchronize();
  to.synchronize();
  return std::chrono::duration<double>(*to.state_->time - *from.state_->time).count();
}

struct Graph::State {
  std::vector<std::function<void()>> work;
};
Graph::Graph(std::unique_ptr<State> state) : state_(std::move(state)) {}
Graph::~Graph() { ::simt::finish_all(); }
void Graph::begin(Stream stream) {
  if (stream->capturing) ::simt::fail("captures a stream that is captured already");
  stream->capturing = true;
}
std::unique_ptr<Graph> Graph::end(Stream stream) {
  if (!stream->capturing) ::simt::fail("ends a capture that has not begun");
  auto state = std::make_unique<State>();
  stream->capturing = false;
  state->work.swap(stream->captured);
  return std::unique_ptr<Graph>(new Graph(std::move(state)));
}
void Graph::launch(Stream stream) {
  if (stream->capturing) ::simt::fail("launches a graph in a stream that is captured");
  for (const auto& work : state_->work) stream->enqueue(work);
}

void check_launch(const char*) {}

}  // namespace signalbox::kernels::shim
