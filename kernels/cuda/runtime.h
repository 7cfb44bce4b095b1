// The part of the CUDA runtime that the backend needs, with its errors turned into one line each. kernels/shim has the
// same functions on the host.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/namespaces.h"
#include "kernels/cuda/device.h"

namespace signalbox::kernels::DEVICE_SPACE {

// A queue of work. Copies and kernels of one stream happen in order.
#if defined(SIGNALBOX_SHIM)
using Stream = ::simt::Stream*;
#else
using Stream = cudaStream_t;
#endif

struct DeviceInfo {
  std::string name;
  int index = 0, major = 0, minor = 0;
  int n_processors = 0;                                    // streaming multiprocessors
  size_t total_bytes = 0, l2_bytes = 0, shared_bytes = 0;  // shared_bytes: most that a block may ask for
  int driver_version = 0;                                  // 13000 = 13.0
  int clock_khz = 0, memory_clock_khz = 0;
};

// Why no device can be used, or empty.
std::string unavailable();
// Makes device `index` current for this thread. Throws Error naming what was expected and what was found.
DeviceInfo open_device(int index);
size_t free_device_bytes();

void* allocate_device(size_t bytes);  // 256-byte aligned; Error when it does not fit, with what is free
void free_device(void* p) noexcept;
void* allocate_pinned(size_t bytes);
void free_pinned(void* p) noexcept;

Stream make_stream();
void destroy_stream(Stream stream) noexcept;
void synchronize(Stream stream);

// `to` or `from` pinned, or device memory.
void copy_async(void* to, const void* from, size_t bytes, Stream stream);
void fill_async(void* to, uint8_t byte, size_t bytes, Stream stream);

class Event {
 public:
  // Only events with `timing` can be given to seconds(); the others are cheaper.
  explicit Event(bool timing = false);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(Stream stream);
  void synchronize();  // the host waits
  bool done() const;
  void hold(Stream stream);                       // later work of `stream` waits
  static double seconds(Event& from, Event& to);  // between two recorded and reached events

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Work of a stream, kept for repetition.
class Graph {
 public:
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  // Between begin and end, what is enqueued on `stream` is kept and not run.
  static void begin(Stream stream);
  // Null: the device has no memory for it; the work has to be enqueued again.
  static std::unique_ptr<Graph> end(Stream stream);
  void launch(Stream stream);

 private:
  struct State;
  explicit Graph(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Throws Error(name, ...) if the last launch failed.
void check_launch(const char* name);

#if defined(SIGNALBOX_SHIM)

template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_memory, Stream stream,
            A... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  stream->enqueue({name, grid, block, shared_memory, [=] { kernel(static_cast<P>(arguments)...); }});
}

#else

// Asks for more shared memory than a kernel gets by itself, once for each kernel and size.
void allow_shared_memory(const void* kernel, size_t bytes, const char* name);

// Runs kernel<<<grid, block, shared_memory, stream>>>(arguments...). An empty grid is no work.
template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_memory, Stream stream,
            A... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared_memory > 48 * 1024) allow_shared_memory(reinterpret_cast<const void*>(kernel), shared_memory, name);
  // The formatter would take the brackets apart.
  // clang-format off
  kernel<<<grid, block, shared_memory, stream>>>(static_cast<P>(arguments)...);
  // clang-format on
  check_launch(name);
}

#endif

}  // namespace signalbox::kernels::DEVICE_SPACE
