// M2: what a kernel that does nothing costs, one after the other. M6: what the host adds.
#include <chrono>
#include <utility>

#include "kernels/cuda/kit/dependent_launch.h"
#include "kernels/cuda/kit/micro.h"

namespace signalbox::kernels::cuda {

namespace {

__global__ void empty_kernel() {}
__global__ void dependent_kernel() {
  launch_dependents();
  wait_for_previous();
}
// The moments at which the work of a step begins and ends.
__global__ void stamp_kernel(uint64_t* to) { *to = nanoseconds(); }

double host_now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void chain(const DeviceInfo& info, const MicroPrint& print) {
  const KitStream stream;
  constexpr int n = 1000;
  for (const int blocks : {1, info.n_processors}) {
    const dim3 grid(static_cast<unsigned>(blocks)), block(128);
    const auto plain = [&] {
      for (int i = 0; i < n; ++i) launch("kit_empty", empty_kernel, grid, block, 0, stream);
    };
    const auto dependent = [&] {
      for (int i = 0; i < n; ++i) launch_dependent("kit_dependent", dependent_kernel, grid, block, 0, stream);
    };
    const auto tell = [&](const char* method, MicroTime time) {
      print(MicroLine("empty_node")
                .set("method", method)
                .set("blocks", blocks)
                .set("microseconds", time.seconds * 1e6 / n)
                .set("spread", time.spread)
                .set("unit", "us")
                .text());
    };
    const auto graph = captured(stream, plain);
    tell("graph", micro_time(stream, [&] { graph->launch(stream); }));
    const auto dependents = captured(stream, dependent);
    tell("graph, dependent launch", micro_time(stream, [&] { dependents->launch(stream); }));
    tell("stream", micro_time(stream, plain));
    tell("stream, dependent launch", micro_time(stream, dependent));
  }
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void host(const DeviceInfo&, const MicroPrint& print) {
  const KitStream stream;
  constexpr int n_nodes = 400, rounds = 200;
  const KitMemory stamps(std::vector<uint64_t>(2, 0));
  const auto graph = captured(stream, [&] {
    launch("kit_stamp", stamp_kernel, dim3(1), dim3(1), 0, stream, stamps.as<uint64_t>());
    for (int i = 0; i < n_nodes - 2; ++i) launch("kit_empty", empty_kernel, dim3(1), dim3(128), 0, stream);
    launch("kit_stamp", stamp_kernel, dim3(1), dim3(1), 0, stream, stamps.as<uint64_t>() + 1);
  });
  // A step as an engine makes it: launch, copy of the status, wait, look, launch.
  void* status = allocate_pinned(64);
  std::vector<double> launches, round_trips, gaps, lengths;
  uint64_t ended = 0;
  Event done;
  for (int r = 0; r < rounds; ++r) {
    const double begin = host_now();
    graph->launch(stream);
    const double launched = host_now();
    copy_async(status, stamps.as<void>(), 16, stream);
    done.record(stream);
    done.synchronize();
    uint64_t at[2];
    __builtin_memcpy(at, status, sizeof at);
    if (r > 1) {
      launches.push_back(launched - begin);
      gaps.push_back(static_cast<double>(at[0] - ended) * 1e-9);
      lengths.push_back(static_cast<double>(at[1] - at[0]) * 1e-9);
    }
    ended = at[1];
  }
  for (int r = 0; r < rounds; ++r) {
    const double begin = host_now();
    launch("kit_stamp", stamp_kernel, dim3(1), dim3(1), 0, stream, stamps.as<uint64_t>());
    copy_async(status, stamps.as<void>(), 16, stream);
    done.record(stream);
    done.synchronize();
    if (r > 1) round_trips.push_back(host_now() - begin);
  }
  free_pinned(status);
  const auto tell = [&](const char* name, const std::vector<double>& values) {
    print(MicroLine(name).set("microseconds", median(values) * 1e6).set("nodes", n_nodes).set("unit", "us").text());
  };
  tell("graph_launch_on_host", launches);
  tell("graph_from_first_to_last_node", lengths);
  tell("gap_between_steps", gaps);
  tell("kernel_and_status_round_trip", round_trips);
}

}  // namespace

std::vector<MicroCase> launch_cases() { return {{"chain", chain}, {"host", host}}; }

}  // namespace signalbox::kernels::cuda
