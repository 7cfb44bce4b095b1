#include "eval/routing/turned_pairs.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "eval/routing/shuffled.h"

namespace signalbox::eval {

namespace {

constexpr size_t counts_at_once = size_t{1} << 26;       // of the replicates of a turn
constexpr int64_t group_tokens = int64_t{1} << 17;       // read at once, as long as no sample is longer
constexpr int64_t row_bytes_at_once = int64_t{1} << 18;  // of rows, so that they stay near
constexpr int64_t most_byte = 255;

using Lanes = uint8_t __attribute__((vector_size(16)));
constexpr int64_t lanes = 16, lanes_at_once = 4 * lanes;

// Routes of whole samples that follow one another: [layers][tokens][slots], the largest Id for an unused slot.
template <class Id>
struct Group {
  static constexpr Id unused = std::numeric_limits<Id>::max();
  struct Sample {
    size_t index = 0;
    int64_t first = 0, n = 0;  // tokens of the group
  };
  int64_t n_layers = 0, n_slots = 0, n_tokens = 0;
  std::vector<Sample> samples;
  std::vector<Id> ids;
  const Id* route(int64_t layer, int64_t token) const { return ids.data() + (layer * n_tokens + token) * n_slots; }
};

// Tokens of one sample that select an expert.
struct Segment {
  int64_t begin = 0, end = 0;  // of the list
  size_t sample = 0;           // whose shift the tokens take
};

using Wide = int32_t __attribute__((vector_size(64)));  // 16 counts

Lanes lanes_at(const uint8_t* row) {
  Lanes out;
  std::memcpy(&out, row, sizeof out);
  return out;
}

// counts[0 .. min(width, 16)) += bytes.
void add_bytes(const Lanes& bytes, int64_t width, int32_t* counts) {
  if (width < lanes) {
    for (int64_t i = 0; i < width; ++i) counts[i] += bytes[i];
    return;
  }
  Wide sums;
  std::memcpy(&sums, counts, sizeof sums);
  sums += __builtin_convertvector(bytes, Wide);
  std::memcpy(counts, &sums, sizeof sums);
}

// counts[0 .. width) += the sum over segments of the rows at (place in bytes + shift of the segment's sample, in rows
// of `stride` bytes). Sums of bytes stay in registers, as long as they hold them.
template <size_t... v>
void add_rows(const std::vector<uint32_t>& list, const Segment* begin, const Segment* end, const uint8_t* rows,
              const int64_t* shifts, int64_t stride, int64_t width, int32_t* counts, std::index_sequence<v...>) {
  Lanes sums[sizeof...(v)] = {};
  int64_t room = most_byte;
  const auto flush = [&] {
    (add_bytes(sums[v], width - static_cast<int64_t>(v) * lanes, counts + v * lanes), ...);
    ((sums[v] = Lanes{}), ...);
    room = most_byte;
  };
  for (const Segment* segment = begin; segment < end; ++segment) {
    const uint8_t* turned = rows + shifts[segment->sample] * stride;
    for (int64_t at = segment->begin; at < segment->end;) {
      const int64_t until = std::min(segment->end, at + room);
      room -= until - at;
      for (; at < until; ++at) {
        const uint8_t* row = turned + list[static_cast<size_t>(at)];
        ((sums[v] += lanes_at(row + v * lanes)), ...);
      }
      if (room == 0) flush();
    }
  }
  flush();
}

// The tokens of some samples, or of a part of one, that select each expert of a layer.
struct Lists {
  std::vector<uint32_t> rows;         // where the rows lie, in bytes, that tokens meet unturned; expert by expert
  std::vector<Segment> segments;      // expert by expert
  std::vector<size_t> first_segment;  // [experts + 1]
};

template <class Id>
class Counter {
 public:
  Counter(const TraceSet& set, const RouteOptions& options, const char* table, const PairCounts& observed)
      : set_(set),
        options_(options),
        table_(table),
        observed_(observed),
        n_experts_(set.n_experts()),
        stride_((n_experts_ + lanes - 1) / lanes * lanes),
        n_links_(static_cast<int64_t>(set.layers().size()) - 1),
        pool_(threads_of(options)) {}

  std::vector<int64_t> hits() {
    const auto cells = static_cast<size_t>(n_links_ * n_experts_ * n_experts_);
    std::vector<int64_t> hits(observed_.counts.size());
    if (cells == 0) return hits;
    const int64_t at_once =
        std::clamp<int64_t>(static_cast<int64_t>(counts_at_once / cells), 1, std::max<int64_t>(options_.resamples, 1));
    std::vector<int32_t> counts;
    for (int64_t first = 0; first < options_.resamples; first += at_once) {
      const int64_t n = std::min(at_once, options_.resamples - first);
      counts.assign(static_cast<size_t>(n) * cells, 0);
      count(first, n, counts.data());
      for (int64_t i = 0; i < n; ++i)
        for (size_t cell = 0; cell < cells; ++cell)
          if (observed_.counts[cell] > 0)
            hits[cell] += counts[static_cast<size_t>(i) * cells + cell] >= observed_.counts[cell];
    }
    return hits;
  }

 private:
  // counts [n][links][experts][experts] of the replicates from `first` on.
  void count(int64_t first, int64_t n, int32_t* counts) {
    const size_t n_samples = set_.samples().size();
    for (size_t sample = 0; sample < n_samples;) {
      const Group<Id> group = read(sample);
      std::vector<std::vector<int64_t>> shifts(static_cast<size_t>(n));  // [replicates][samples]
      for (const auto& of : group.samples) {
        Shuffles shuffles(options_.seed, of.index, of.n);
        for (int64_t i = 0; i < n; ++i) shifts[static_cast<size_t>(i)].push_back(shuffles.shift(first + i));
      }
      pool_.parallel_for(n_links_, [&](int64_t link, int) { count_link(group, link, shifts, counts); });
      if (options_.on_progress) {
        const auto done = static_cast<int64_t>(sample), of = static_cast<int64_t>(n_samples);
        options_.on_progress(table_, first * of + done * n, options_.resamples * of);
      }
    }
  }

  // The next samples, `sample` on, which then is the one behind them.
  Group<Id> read(size_t& sample) const {
    Group<Id> group;
    group.n_layers = n_links_ + 1;
    std::vector<std::vector<Id>> layers(static_cast<size_t>(group.n_layers));
    for (size_t t = 0; t < set_.samples().size(); ++t)
      group.n_slots = std::max<int64_t>(group.n_slots, set_.trace(set_.samples()[t].trace).n_slots());
    SampleRoutes routes;
    for (; sample < set_.samples().size(); ++sample) {
      const TraceReader::Rows all = rows_of(sample);
      if (!group.samples.empty() && group.n_tokens + all.size() > group_tokens) break;
      typename Group<Id>::Sample one{sample, group.n_tokens, 0};
      for (int64_t begin = all.begin; begin < all.end; begin += options_.block_rows) {
        read_block(set_, {sample, begin, std::min(begin + options_.block_rows, all.end), 0}, options_, false, routes);
        for (int64_t l = 0; l < group.n_layers; ++l)
          for (int64_t t = 0; t < routes.n(); ++t)
            for (int64_t slot = 0; slot < group.n_slots; ++slot) {
              const int32_t expert = slot < routes.n_slots ? routes.route(t, l)[slot] : -1;
              layers[static_cast<size_t>(l)].push_back(expert < 0 ? Group<Id>::unused : static_cast<Id>(expert));
            }
        one.n += routes.n();
      }
      if (one.n == 0) continue;
      group.n_tokens += one.n;
      group.samples.push_back(one);
    }
    for (std::vector<Id>& layer : layers) {
      group.ids.insert(group.ids.end(), layer.begin(), layer.end());
      layer = {};
    }
    return group;
  }
  TraceReader::Rows rows_of(size_t sample) const {
    const TraceSample& of = set_.samples()[sample];
    return set_.trace(of.trace).rows(of.index);
  }

  void count_link(const Group<Id>& group, int64_t link, const std::vector<std::vector<int64_t>>& shifts,
                  int32_t* counts) const {
    const int64_t rows_at_once = std::max<int64_t>(1, row_bytes_at_once / stride_);
    for (size_t begin = 0; begin < group.samples.size();) {
      // As many samples as rows stay near, or a part of one that is longer.
      size_t end = begin + 1;
      int64_t tokens = group.samples[begin].n;
      while (end < group.samples.size() && tokens + group.samples[end].n <= rows_at_once)
        tokens += group.samples[end++].n;
      if (tokens <= rows_at_once)
        count_whole(group, link, begin, end, shifts, counts);
      else
        for (int64_t part = 0; part < tokens; part += rows_at_once)
          count_part(group, link, begin, part, std::min(part + rows_at_once, tokens), shifts, counts);
      begin = end;
    }
  }

  // Samples [begin, end): the rows of each stand twice, so that no turn wraps.
  void count_whole(const Group<Id>& group, int64_t link, size_t begin, size_t end,
                   const std::vector<std::vector<int64_t>>& shifts, int32_t* counts) const {
    const int64_t first = group.samples[begin].first,
                  n = group.samples[end - 1].first + group.samples[end - 1].n - first;
    std::vector<uint8_t> rows(static_cast<size_t>(2 * n * stride_));
    Lists lists;
    std::vector<std::vector<std::pair<size_t, uint32_t>>> of(
        static_cast<size_t>(n_experts_));  // sample, place of its row
    for (size_t sample = begin; sample < end; ++sample) {
      const auto& one = group.samples[sample];
      const int64_t at = 2 * (one.first - first);
      for (int64_t t = 0; t < one.n; ++t) {
        set_row(group.route(link + 1, one.first + t), group.n_slots, rows.data() + (at + t) * stride_);
        set_row(group.route(link + 1, one.first + t), group.n_slots, rows.data() + (at + one.n + t) * stride_);
        add_token(group, link, one.first + t, sample, static_cast<uint32_t>((at + t) * stride_), of);
      }
    }
    make_lists(of, lists);
    for (size_t i = 0; i < shifts.size(); ++i) add(lists, rows.data(), shifts[i].data(), counts + place(i, link));
  }

  // Tokens [from, until) of a long sample: the rows that they meet are made for each turn.
  void count_part(const Group<Id>& group, int64_t link, size_t sample, int64_t from, int64_t until,
                  const std::vector<std::vector<int64_t>>& shifts, int32_t* counts) const {
    const auto& one = group.samples[sample];
    Lists lists;
    std::vector<std::vector<std::pair<size_t, uint32_t>>> of(static_cast<size_t>(n_experts_));
    for (int64_t t = from; t < until; ++t)
      add_token(group, link, one.first + t, 0, static_cast<uint32_t>((t - from) * stride_), of);
    make_lists(of, lists);
    std::vector<uint8_t> rows(static_cast<size_t>((until - from) * stride_));
    const int64_t none = 0;
    for (size_t i = 0; i < shifts.size(); ++i) {
      std::fill(rows.begin(), rows.end(), uint8_t{0});
      int64_t turned = (from + shifts[i][sample]) % one.n;
      for (int64_t t = from; t < until; ++t, turned = turned + 1 == one.n ? 0 : turned + 1)
        set_row(group.route(link + 1, one.first + turned), group.n_slots, rows.data() + (t - from) * stride_);
      add(lists, rows.data(), &none, counts + place(i, link));
    }
  }

  size_t place(size_t replicate, int64_t link) const {
    return (replicate * static_cast<size_t>(n_links_) + static_cast<size_t>(link)) *
           static_cast<size_t>(n_experts_ * n_experts_);
  }
  static void set_row(const Id* route, int64_t n_slots, uint8_t* row) {
    for (int64_t slot = 0; slot < n_slots; ++slot)
      if (route[slot] != Group<Id>::unused) row[route[slot]] = 1;
  }
  static void add_token(const Group<Id>& group, int64_t layer, int64_t token, size_t sample, uint32_t row,
                        std::vector<std::vector<std::pair<size_t, uint32_t>>>& of) {
    const Id* route = group.route(layer, token);
    for (int64_t slot = 0; slot < group.n_slots; ++slot)
      if (route[slot] != Group<Id>::unused) of[route[slot]].emplace_back(sample, row);
  }
  static void make_lists(const std::vector<std::vector<std::pair<size_t, uint32_t>>>& of, Lists& lists) {
    for (const auto& tokens : of) {
      lists.first_segment.push_back(lists.segments.size());
      for (size_t i = 0; i < tokens.size(); ++i) {
        const auto at = static_cast<int64_t>(lists.rows.size());
        if (i == 0 || tokens[i].first != tokens[i - 1].first) lists.segments.push_back({at, at, tokens[i].first});
        lists.rows.push_back(tokens[i].second);
        lists.segments.back().end = at + 1;
      }
    }
    lists.first_segment.push_back(lists.segments.size());
  }
  // counts [experts][experts] of one replicate and link.
  void add(const Lists& lists, const uint8_t* rows, const int64_t* shifts, int32_t* counts) const {
    for (int64_t a = 0; a < n_experts_; ++a) {
      const Segment *begin = lists.segments.data() + lists.first_segment[static_cast<size_t>(a)],
                    *end = lists.segments.data() + lists.first_segment[static_cast<size_t>(a) + 1];
      if (begin == end) continue;
      int32_t* of_a = counts + a * n_experts_;
      for (int64_t column = 0; column < stride_; column += lanes_at_once) {
        const int64_t width = n_experts_ - column;
        const auto call = [&](auto vectors) {
          add_rows(lists.rows, begin, end, rows + column, shifts, stride_, width, of_a + column, vectors);
        };
        if (stride_ - column >= 4 * lanes)
          call(std::make_index_sequence<4>());
        else if (stride_ - column >= 3 * lanes)
          call(std::make_index_sequence<3>());
        else if (stride_ - column >= 2 * lanes)
          call(std::make_index_sequence<2>());
        else
          call(std::make_index_sequence<1>());
      }
    }
  }

  const TraceSet& set_;
  const RouteOptions& options_;
  const char* table_;
  const PairCounts& observed_;
  int64_t n_experts_, stride_, n_links_;
  ThreadPool pool_;
};

}  // namespace

std::vector<int64_t> turned_pair_hits(const TraceSet& set, const RouteOptions& options, const char* table,
                                      const PairCounts& observed) {
  if (set.n_experts() < 255) return Counter<uint8_t>(set, options, table, observed).hits();
  return Counter<uint16_t>(set, options, table, observed).hits();
}

}  // namespace signalbox::eval
