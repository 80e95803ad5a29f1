// Who contrasts with whom: the queries and keys that take part, sorted by label, and each query's positives.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

namespace pyeqgan {

struct ContrastiveGroups {
  // Places in the tensors, sorted by label. Keys: empty in self-contrast, where they are the queries.
  std::vector<int64_t> queries, keys;
  // See cpu::ContrastiveLoss.
  std::vector<int64_t> positives_begin, positives_end, excluded_begin, excluded_end, excluded, positives;
};

// Labels and ids as contiguous arrays; ids may be null.
struct ContrastiveLabels {
  const int64_t *labels, *ids;
  int64_t size;
};

namespace detail {

using Pair = std::pair<int64_t, int64_t>;

// (label, place) of the rows that are not ignored, sorted.
inline std::vector<Pair> sort_rows(const ContrastiveLabels& rows, int64_t ignore_index) {
  std::vector<Pair> sorted;
  sorted.reserve(rows.size);
  for (int64_t i = 0; i < rows.size; ++i)
    if (rows.labels[i] != ignore_index) sorted.emplace_back(rows.labels[i], i);
  std::sort(sorted.begin(), sorted.end());
  return sorted;
}

inline std::vector<int64_t> places(const std::vector<Pair>& sorted) {
  std::vector<int64_t> places(sorted.size());
  std::transform(sorted.begin(), sorted.end(), places.begin(), [](const Pair& row) { return row.second; });
  return places;
}

}  // namespace detail

// keys null: queries contrast with each other; without ids a row is excluded from its own keys. Queries without a
// positive are left out where they are not keys at the same time.
inline ContrastiveGroups group_rows(const ContrastiveLabels& queries, const ContrastiveLabels* keys,
                                    int64_t ignore_index) {
  using detail::Pair;
  ContrastiveGroups groups;
  const std::vector<Pair> sorted_queries = detail::sort_rows(queries, ignore_index);
  const std::vector<Pair> sorted_keys = keys == nullptr ? sorted_queries : detail::sort_rows(*keys, ignore_index);
  const int64_t* ids = keys == nullptr ? queries.ids : keys->ids;
  if (keys != nullptr) groups.keys = detail::places(sorted_keys);

  // The places of keys, by id: sorted as (id, sorted place).
  std::vector<Pair> by_id;
  if (ids != nullptr) {
    for (size_t j = 0; j < sorted_keys.size(); ++j) by_id.emplace_back(ids[sorted_keys[j].second], j);
    std::sort(by_id.begin(), by_id.end());
    groups.excluded = detail::places(by_id);
  } else if (keys == nullptr) {
    groups.excluded.resize(sorted_keys.size());
    std::iota(groups.excluded.begin(), groups.excluded.end(), int64_t{0});
  }

  size_t begin = 0, end = 0;
  for (size_t i = 0; i < sorted_queries.size(); ++i) {
    const auto& [label, place] = sorted_queries[i];
    while (begin < sorted_keys.size() && sorted_keys[begin].first < label) ++begin;
    end = std::max(begin, end);
    while (end < sorted_keys.size() && sorted_keys[end].first == label) ++end;
    int64_t first = 0, last = 0;
    if (ids != nullptr) {
      const int64_t id = queries.ids[place];
      first = std::lower_bound(by_id.begin(), by_id.end(), Pair{id, 0}) - by_id.begin();
      last = std::upper_bound(by_id.begin(), by_id.end(), Pair{id, INT64_MAX}) - by_id.begin();
    } else if (keys == nullptr) {
      first = i, last = i + 1;
    }
    const auto excluded = groups.excluded.begin();
    const int64_t lost = std::lower_bound(excluded + first, excluded + last, end) -
                         std::lower_bound(excluded + first, excluded + last, begin);
    const int64_t positives = end - begin - lost;
    if (positives == 0 && keys != nullptr) continue;
    groups.queries.push_back(place);
    groups.positives_begin.push_back(begin);
    groups.positives_end.push_back(end);
    groups.excluded_begin.push_back(first);
    groups.excluded_end.push_back(last);
    groups.positives.push_back(positives);
  }
  return groups;
}

}  // namespace pyeqgan
