// Work on pairs of blocks that adds to sums of both: on several threads, without locks, and with the same result for
// any number of them.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdint>
#include <numeric>
#include <thread>
#include <vector>

namespace pyeqgan {

// Threads take the pairs in the order they were added. A block sees its pairs one after the other in that order: a
// pair waits until both its blocks are through with their earlier ones.
class PairSchedule {
 public:
  explicit PairSchedule(int64_t blocks) : turns_(blocks, 0) {}

  // All pairs {i, j} of [0, blocks), i == j too.
  static PairSchedule among(int64_t blocks) { return within({blocks}); }

  // All pairs of blocks of one group, given the groups' sizes. Rounds of a tournament by the circle method, one team at
  // its place while the others turn, keep neighbours in the order from waiting for each other.
  static PairSchedule within(const std::vector<int64_t>& groups) {
    PairSchedule schedule(std::accumulate(groups.begin(), groups.end(), int64_t{0}));
    int64_t first = 0;
    for (const int64_t blocks : groups) {
      for (int64_t i = 0; i < blocks; ++i) schedule.add(first + i, first + i);
      const int64_t teams = blocks + blocks % 2, turning = teams - 1;
      for (int64_t round = 0; round < turning; ++round)
        for (int64_t lane = 0; lane < teams / 2; ++lane) {
          const int64_t i = lane == 0 ? turning : (round + lane) % turning;
          const int64_t j = (round - lane + turning) % turning;
          if (i < blocks && j < blocks) schedule.add(first + i, first + j);
        }
      first += blocks;
    }
    return schedule;
  }

  // All pairs of [0, blocks) and [blocks, blocks + others).
  static PairSchedule between(int64_t blocks, int64_t others) {
    PairSchedule schedule(blocks + others);
    const int64_t rounds = blocks > others ? blocks : others, lanes = blocks + others - rounds;
    for (int64_t round = 0; round < rounds; ++round)
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const int64_t far = (lane + round) % rounds;
        schedule.add(blocks <= others ? lane : far, blocks + (blocks <= others ? far : lane));
      }
    return schedule;
  }

  // Calls work(i, j) for every pair.
  template <class Work>
  void run(const Work& work) const {
    std::vector<std::atomic<int64_t>> done(turns_.size());
    std::atomic<size_t> next{0};
    std::atomic<bool> failed{false};
    const auto wait = [&](int64_t block, int64_t turn) {
      while (done[block].load(std::memory_order_acquire) < turn && !failed) std::this_thread::yield();
    };
    const auto take_steps = [&](int64_t, int64_t) {
      for (size_t s = next++; s < steps_.size() && !failed; s = next++) {
        const Step& step = steps_[s];
        wait(step.first, step.first_turn);
        wait(step.second, step.second_turn);
        if (failed) return;
        try {
          work(step.first, step.second);
        } catch (...) {
          failed = true;  // nobody waits for this step
          throw;
        }
        done[step.first].fetch_add(1, std::memory_order_release);
        if (step.second != step.first) done[step.second].fetch_add(1, std::memory_order_release);
      }
    };
    torch::stable::parallel_for(0, torch::stable::get_num_threads(), 1, take_steps);
  }

 private:
  // Blocks and how many pairs each has before this one.
  struct Step {
    int64_t first, second, first_turn, second_turn;
  };

  void add(int64_t first, int64_t second) {
    steps_.push_back({first, second, turns_[first], turns_[second]});
    ++turns_[first];
    if (second != first) ++turns_[second];
  }

  std::vector<Step> steps_;
  std::vector<int64_t> turns_;
};

}  // namespace pyeqgan
