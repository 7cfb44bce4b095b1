// A trace that one process begins and another ends.
#include <doctest/doctest.h>

#include "base/error.h"
#include "base/row_spool.h"
#include "probes/trace.h"
#include "probes/trace_schema.h"
#include "tests/probes/trace_sample.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::test;

namespace {

const std::vector<int64_t> lengths = {5, 3, 8, 1};

void finish(TraceWriter& writer) {
  std::vector<std::string> ids;
  for (size_t s = 0; s < lengths.size(); ++s) ids.push_back("s" + std::to_string(s));
  writer.finish(ids, [&](int64_t s) { return json::Value::object().set("id", ids[static_cast<size_t>(s)]); });
}

TraceOptions resumable(const std::filesystem::path& dir) {
  TraceOptions options = trace_options(dir);
  options.resumable = true;
  return options;
}

void check_equal(const std::filesystem::path& a, const std::filesystem::path& b) {
  for (const char* file : {trace_file, records_file}) CHECK(read_file(a / file) == read_file(b / file));
}

}  // namespace

TEST_CASE("trace: what one process settled, another takes up, and the bytes are those of one") {
  TemporaryDirectory scratch;
  write_trace(trace_options(scratch / "one"), lengths);
  const TraceOptions options = resumable(scratch / "two");
  json::Value second, third;
  {
    TraceWriter writer(options);
    feed(writer, options, {{2, 0, 4, 0}, {0, 0, 3, 0}, {1, 0, 1, 0}});
    feed(writer, options, {{1, 1, 2, 0}, {2, 4, 4, 0}});
    second = writer.settle(1);
    third = writer.settle(2);
    // Sample 0 is in flight.
  }
  CHECK(std::filesystem::exists(scratch / "two" / rows_spool));
  CHECK(std::filesystem::exists(scratch / "two" / patterns_spool));
  {
    TraceWriter writer(options);
    REQUIRE(writer.restore(1, json::Ref(second, "line")));
    REQUIRE(writer.restore(2, json::Ref(third, "line")));
    CHECK(writer.n_rows(1) == 3);
    CHECK(writer.n_rows(0) == 0);
    CHECK(writer.settle(1) == second);
    feed(writer, options, {{0, 0, 5, 0}, {3, 0, 1, 0}});
    writer.sync();
    finish(writer);
  }
  check_equal(scratch / "two", scratch / "one");
  CHECK(!std::filesystem::exists(scratch / "two" / rows_spool));
  CHECK(!std::filesystem::exists(scratch / "two" / patterns_spool));
}

TEST_CASE("trace: rows that are not as they were settled are not taken up") {
  for (const char* spool : {rows_spool, patterns_spool}) {
    CAPTURE(spool);
    TemporaryDirectory scratch;
    const TraceOptions options = resumable(scratch / "t");
    json::Value settled[2];
    {
      TraceWriter writer(options);
      for (int64_t s = 0; s < 2; ++s) {
        feed(writer, options, {{s, 0, lengths[static_cast<size_t>(s)], 0}});
        settled[s] = writer.settle(s);
      }
    }
    // As after a power failure: the end is missing, or zeros.
    std::string bytes = read_file(scratch / "t" / spool);
    bytes[bytes.size() - 5] ^= 1;
    write_file(scratch / "t" / spool, bytes);
    {
      TraceWriter writer(options);
      CHECK(writer.restore(0, json::Ref(settled[0], "line")));
      CHECK(!writer.restore(1, json::Ref(settled[1], "line")));
      CHECK(writer.n_rows(1) == 0);
    }
    write_file(scratch / "t" / spool, bytes.substr(0, bytes.size() - 1));
    TraceWriter writer(options);
    CHECK(!writer.restore(1, json::Ref(settled[1], "line")));
    REQUIRE(writer.restore(0, json::Ref(settled[0], "line")));
    for (int64_t s = 1; s < 4; ++s) feed(writer, options, {{s, 0, lengths[static_cast<size_t>(s)], 0}});
    finish(writer);
    write_trace(trace_options(scratch / "one"), lengths);
    check_equal(scratch / "t", scratch / "one");
  }
}

TEST_CASE("trace: settling is for resumable traces, between batches, and takes its own values alone") {
  TemporaryDirectory scratch;
  const auto message = [](auto call) {
    try {
      call();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  TraceOptions options = trace_options(scratch / "t");
  TraceWriter plain(options);
  feed(plain, options, {{0, 0, 2, 0}});
  CHECK(message([&] { plain.settle(0); }) == "trace: expected settle() between the batches of a resumable trace");
  options = resumable(scratch / "r");
  TraceWriter writer(options);
  feed(writer, options, {{0, 0, 2, 0}});
  const json::Value settled = writer.settle(0);
  CHECK(message([&] { writer.restore(0, json::Ref(settled, "line")); }) ==
        "trace: expected restore() of a sample without rows");
  const auto with = [&](const char* key, json::Value value) {
    json::Value other = settled;
    other.set(key, std::move(value));
    return other;
  };
  const json::Value unknown = with("more", 1), pair = with("rows", json::parse("[[1]]", "t")),
                    below = with("rows", json::parse("[[-1,2]]", "t"));
  CHECK(message([&] { writer.restore(1, json::Ref(unknown, "line")); }).find("more") != std::string::npos);
  CHECK(message([&] { writer.restore(1, json::Ref(pair, "line")); }) ==
        "line: rows[0]: expected an offset and a number of rows, found another list");
  CHECK(message([&] { writer.restore(1, json::Ref(below, "line")); }).find("rows[0][0]") != std::string::npos);
  // Offsets beyond any file, and so large that they would overflow.
  const json::Value far = with("rows", json::parse("[[1152921504606846976,1152921504606846976]]", "t"));
  CHECK(!writer.restore(1, json::Ref(far, "line")));
}

TEST_CASE("trace: a batch that was abandoned lets the next begin, and the trace is never finished") {
  TemporaryDirectory scratch;
  const TraceOptions options = trace_options(scratch / "t");
  TraceWriter writer(options);
  feed(writer, options, {{0, 0, 2, 0}});
  const int32_t tokens[] = {7}, positions[] = {0};
  const RowRange range{1, 0, 1, 0};
  writer.begin({1, {&range, 1}, tokens, positions, nullptr, nullptr});
  writer.abandon();
  feed(writer, options, {{2, 0, 3, 0}});
  std::string message;
  try {
    finish(writer);
  } catch (const Error& error) {
    message = error.what();
  }
  CHECK(message == "trace: expected all batches to come to their end, found one that was abandoned");
  CHECK(!std::filesystem::exists(scratch / "t" / trace_file));
}

TEST_CASE("row spool: many samples are settled without a growing list of those that wait") {
  TemporaryDirectory scratch;
  const auto fill = [](int64_t sample, int64_t row) {
    std::vector<std::byte> bytes(8);
    for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<std::byte>(sample * 31 + row * 7 + static_cast<int64_t>(i));
    return bytes;
  };
  constexpr int64_t n = 9000;
  std::vector<RowSpool::Extent> kept;
  {
    RowSpool spool(scratch / "rows", 8, RowSpool::Lifetime::file);
    for (int64_t s = 0; s < n; ++s) {
      for (int64_t r = 0; r < 2; ++r) spool.append(s, fill(s, r).data(), 1);
      const auto extents = spool.settle(s);
      REQUIRE(extents.size() == 1);
      kept.push_back(extents[0]);
      CHECK(spool.hash(extents).has_value());
    }
  }
  RowSpool spool(scratch / "rows", 8, RowSpool::Lifetime::file);
  for (int64_t s = n - 1; s >= 0; s -= 2) spool.restore(s, {&kept[static_cast<size_t>(s)], 1});
  spool.append(0, fill(0, 0).data(), 1);  // behind all of them
  CHECK(spool.settle(0)[0].offset == 2 * 8 * n);
  CHECK(spool.n_rows() == n + 1);
  int64_t rows = 0;
  std::vector<std::byte> buffer(4096), first;
  spool.read_all(buffer, [&](const std::byte* data, int64_t count) {
    if (rows == 0) first.assign(data, data + 24);
    rows += count;
  });
  CHECK(rows == n + 1);
  std::vector<std::byte> expected = fill(0, 0);
  for (int64_t r = 0; r < 2; ++r) {
    const auto more = fill(1, r);
    expected.insert(expected.end(), more.begin(), more.end());
  }
  CHECK(first == expected);
}
