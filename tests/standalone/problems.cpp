// A problem or more for every compiled function: small, but of several work items in every loop over threads.
#include "driver.h"

namespace driver {
namespace {

using Integers = std::vector<int64_t>;

// (batch, count) positions in [0, size), distinct in every row: 5 shares no factor with any size here.
Tensor positions(int64_t batch, int64_t count, int64_t size) {
  const Tensor places = uniform({batch, count}, 0, 1, ScalarType::Long);
  int64_t* place = static_cast<int64_t*>(places.mutable_data_ptr());
  for (int64_t i = 0; i < batch * count; ++i) place[i] = 5 * i % size;
  return places;
}

void bilateral_propagation(std::vector<Problem>& all) {
  const Tensor x = uniform({2, 40, 37, 29}), grad = uniform({2, 80, 37, 29});
  const None gate = uniform({2, 40}, 0, 1);
  const double sigma = 1.5;
  const int64_t radius = 8;
  for (const Tensor& image : {x, channels_last(x)}) {
    const std::string layout = image.stride(1) == 1 ? ", channels_last" : "";
    const Tensor affinity = call("bilateral_propagation", 2, image, gate, sigma, radius)[1];
    all.push_back({"bilateral_propagation" + layout,
                   [=] { return call("bilateral_propagation", 2, image, gate, sigma, radius); }});
    all.push_back({"bilateral_propagation_backward" + layout, [=] {
                     return call("bilateral_propagation_backward", 2, grad, image, gate, affinity, sigma, radius, true,
                                 true);
                   }});
  }
}

void fusion(std::vector<Problem>& all) {
  const Tensor base = uniform({2, 40, 18, 14}), references = uniform({2, 2, 40, 18, 14});
  const Tensor weights = uniform({2, 3}, 0, 1), grad = uniform({2, 40, 18, 14});
  const Tensor fine = positions(2, 100, 18 * 14), coarse = positions(2, 40, 9 * 7);
  const Tensor matches = uniform({2, 2, 40}, 0, 63, ScalarType::Long);
  const Integers grid{9, 7};
  all.push_back({"local_fusion", [=] { return call("local_fusion", 2, base, references, weights, fine); }});
  for (const Tensor& image : {base, channels_last(base)}) {
    const std::string layout = image.stride(1) == 1 ? ", channels_last" : "";
    all.push_back({"lifted_fusion" + layout,
                   [=] { return call("lifted_fusion", 1, image, references, weights, coarse, matches, grid); }});
    all.push_back({"lifted_fusion_backward" + layout, [=] {
                     return call("lifted_fusion_backward", 3, grad, image, references, weights, coarse, matches, grid,
                                 true, true, true);
                   }});
  }
}

void equalization_fusion(std::vector<Problem>& all) {
  const double eps = 1e-5, sigma = 1.5, slope = 0.2;
  const int64_t radius = 8;
  const Tensor structure = uniform({3, 20, 13, 11}), texture = uniform({3, 12, 13, 11}),
               grad = uniform({3, 36, 13, 11});
  const Tensor fuse = uniform({40, 41, 1, 1}), reduce = uniform({5, 40, 1, 1}), expand = uniform({40, 5, 1, 1});
  const Tensor out = uniform({36, 80, 1, 1});
  const None none, detail = uniform({3, 9, 13, 11}), bias = uniform({40}), reduce_bias = uniform({5});
  const None out_bias = uniform({36});
  const std::array<bool, 14> each{true, true, true, true, true, true, true, true, true, true, true, true, true, true};
  for (const char* kind : {"batch", "instance"}) {
    const Text norm = kind;
    const auto forward = [=] {
      return call("equalization_fusion", 10, structure, texture, detail, fuse, bias, reduce, reduce_bias, expand, bias,
                  out, bias, bias, out_bias, out_bias, none, none, none, none, norm, true, eps, sigma, radius, slope);
    };
    const Tensors s = forward();
    all.push_back({"equalization_fusion, " + *norm, forward});
    all.push_back({"equalization_fusion_backward, " + *norm, [=] {
                     const torch::headeronly::HeaderOnlyArrayRef<bool> needs(each);
                     return call_for_list("equalization_fusion_backward", grad, structure, texture, detail, fuse, bias,
                                          reduce, reduce_bias, expand, bias, out, bias, bias, out_bias, out_bias, s[1],
                                          s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], norm, true, eps, sigma,
                                          radius, slope, needs);
                   }});
  }
}

void contrastive_loss(std::vector<Problem>& all) {
  const int64_t ignored = -1;
  const Tensor temperature = uniform({}, 0.1, 0.1), queries = uniform({500, 40}), grad = uniform({500});
  const Tensor labels = uniform({500}, -1, 7, ScalarType::Long), key_labels = uniform({420}, -1, 7, ScalarType::Long);
  const None none, other = uniform({420, 40}), other_labels = key_labels;
  for (const bool own : {false, true})
    for (const char* name : {"per_positive", "supcon"}) {
      const std::string mode = name;
      const None keys = own ? other : none, of_keys = own ? other_labels : none;
      const auto forward = [=] {
        return call("contrastive_loss", 4, queries, labels, keys, of_keys, temperature, mode, true, ignored, none,
                    none);
      };
      const Tensors saved = forward();
      const std::string what = ", " + mode + (own ? ", separate keys" : "");
      all.push_back({"contrastive_loss" + what, forward});
      all.push_back({"contrastive_loss_backward" + what, [=] {
                       return call("contrastive_loss_backward", 3, grad, queries, labels, keys, of_keys, temperature,
                                   mode, true, ignored, none, none, saved[1], saved[2], saved[3], true, own, true);
                     }});
    }
}

void equalization_consistency_loss(std::vector<Problem>& all) {
  const Tensors equalized{uniform({3, 40, 9, 11}), channels_last(uniform({3, 12, 30, 34}))};
  const Tensors decoded{uniform({3, 40, 9, 11}, -2, 1), uniform({3, 12, 30, 34}, -2, 1)};
  const std::vector<double> weights{1, 0.5};
  const std::array<bool, 2> each{true, true};
  const Tensor grad = uniform({}, 1, 1);
  for (const char* name : {"cosine", "l1", "l2"}) {
    const std::string distance = name;
    all.push_back({"equalization_consistency_loss, " + distance,
                   [=] { return call("equalization_consistency_loss", 1, equalized, decoded, weights, distance); }});
    all.push_back({"equalization_consistency_loss_backward, " + distance, [=] {
                     const torch::headeronly::HeaderOnlyArrayRef<bool> both(each);
                     return call_for_list("equalization_consistency_loss_backward", grad, equalized, decoded, weights,
                                          distance, both, both);
                   }});
  }
}

void activated_conv2d(std::vector<Problem>& all) {
  const int64_t padding = 1;
  const double slope = 0.2;
  const Text activation = "leaky_relu";
  const std::string mode = "reflect";
  // Few channels on a large map, and many on a small one: the two ways a convolution may go.
  for (const auto& [channels, size] : {std::pair<int64_t, int64_t>{6, 40}, {72, 14}}) {
    const Tensor x = uniform({3, channels, size, size}), grad = uniform({3, channels, size, size});
    const Tensor weight = uniform({channels, channels, 3, 3});
    const None bias = uniform({channels});
    const std::string what = ", " + std::to_string(channels) + " channels";
    all.push_back({"activated_conv2d" + what,
                   [=] { return call("activated_conv2d", 1, x, weight, bias, activation, slope, padding, mode); }});
    all.push_back({"activated_conv2d_backward" + what, [=] {
                     return call("activated_conv2d_backward", 3, grad, x, weight, activation, slope, padding, mode,
                                 true, true, true);
                   }});
  }
}

void layout_conv2d(std::vector<Problem>& all) {
  const int64_t classes = 7, stride = 1, padding = 1, ignored = -1;
  const double slope = 0.2;
  const Text activation = "leaky_relu";
  const Integers kernel{3, 3};
  const Tensor labels = uniform({3, 40, 37}, -1, 7, ScalarType::Long), weight = uniform({40, 7, 3, 3});
  const Tensor grad = uniform({3, 40, 40, 37});
  const None bias = uniform({40});
  for (const Tensor& w : {weight, channels_last(weight)}) {
    const std::string layout = w.stride(1) == 1 ? ", channels_last" : "";
    const auto forward = [=] {
      return call("layout_conv2d", 1, labels, w, bias, stride, padding, ignored, activation, slope);
    };
    const None y = forward()[0];
    all.push_back({"layout_conv2d" + layout, forward});
    all.push_back({"layout_conv2d_backward" + layout, [=] {
                     return call("layout_conv2d_backward", 2, y->stride(1) == 1 ? channels_last(grad) : grad, y, labels,
                                 classes, kernel, stride, padding, ignored, activation, slope, true, true);
                   }});
  }
}

void similarity_loss(std::vector<Problem>& all) {
  const int64_t ignored = -1;
  const double eps = 1e-6;
  const Tensor probabilities = uniform({2, 7, 31, 29}, 0, 0.4), grad = uniform({}, 1, 1);
  const Tensor labels = uniform({2, 31, 29}, -1, 7, ScalarType::Long);
  all.push_back({"similarity_loss", [=] { return call("similarity_loss", 1, probabilities, labels, ignored, eps); }});
  all.push_back({"similarity_loss_backward",
                 [=] { return call("similarity_loss_backward", 1, grad, probabilities, labels, ignored, eps); }});
}

void skip_decoder_block(std::vector<Problem>& all) {
  const double eps = 1e-5, slope = 0.2;
  const Text activation = "leaky_relu";
  const Tensor x = uniform({3, 24, 11, 13}), weight = uniform({36, 44, 3, 3}), grad = uniform({3, 36, 22, 26});
  const None none, bias = uniform({36}), scale = uniform({36}), shift = uniform({36});
  const std::pair<const char*, None> skips[] = {{"", uniform({3, 20, 11, 13})},
                                                {", fine skip", uniform({3, 20, 22, 26})}};
  for (const auto& [name, skip] : skips)
    for (const char* kind : {"batch", "instance"}) {
      const Text norm = kind;
      const auto forward = [=, skip = skip] {
        return call("skip_decoder_block", 4, x, skip, weight, bias, norm, scale, shift, none, none, true, eps,
                    activation, slope);
      };
      const Tensors saved = forward();
      const std::string what = ", " + *norm + name;
      all.push_back({"skip_decoder_block" + what, forward});
      all.push_back({"skip_decoder_block_backward" + what, [=, skip = skip] {
                       return call("skip_decoder_block_backward", 6, grad, x, skip, weight, bias, norm, scale, shift,
                                   saved[1], saved[2], saved[3], true, eps, activation, slope, true, true, true, true,
                                   true, true);
                     }});
    }
}

void modulated_norm(std::vector<Problem>& all) {
  const double eps = 1e-5, slope = 0.2;
  const Text activation = "leaky_relu";
  const Tensor x = uniform({3, 40, 37, 29}), grad = uniform({3, 40, 37, 29}), other = uniform({3, 40, 37, 29}, 0, 1);
  const Tensor vector = uniform({3, 40});
  const None none;
  for (const bool last : {false, true})
    for (const char* kind : {"batch", "instance"})
      for (const bool maps : {true, false}) {
        const auto laid = [&](const Tensor& image) { return last ? channels_last(image) : image; };
        const Tensor image = laid(x), upstream = laid(grad), scale = maps ? laid(other) : vector;
        const Text norm = kind;
        const auto forward = [=] {
          return call("modulated_norm", 3, image, scale, scale, norm, none, none, true, eps, activation, slope);
        };
        const Tensors saved = forward();
        const std::string what = ", " + *norm + (maps ? ", maps" : ", vectors") + (last ? ", channels_last" : "");
        all.push_back({"modulated_norm" + what, forward});
        all.push_back({"modulated_norm_backward" + what, [=] {
                         return call("modulated_norm_backward", 3, upstream, image, scale, scale, norm, saved[1],
                                     saved[2], true, eps, activation, slope, true, true, true);
                       }});
      }
}

}  // namespace

std::vector<Problem> problems() {
  std::vector<Problem> all;
  bilateral_propagation(all);
  fusion(all);
  equalization_fusion(all);
  contrastive_loss(all);
  equalization_consistency_loss(all);
  activated_conv2d(all);
  skip_decoder_block(all);
  modulated_norm(all);
  layout_conv2d(all);
  similarity_loss(all);
  return all;
}

Tensor uniform(const std::vector<int64_t>& sizes, double low, double high, ScalarType dtype) {
  const Tensor x = torch::stable::empty(sizes, dtype);
  uint64_t state = 1;
  const auto next = [&] {
    state = 6364136223846793005u * state + 1442695040888963407u;
    return low + (high - low) * static_cast<double>(state >> 40) / (1 << 24);
  };
  for (int64_t i = 0; i < x.numel(); ++i) {
    if (dtype == ScalarType::Long) {
      static_cast<int64_t*>(x.mutable_data_ptr())[i] = static_cast<int64_t>(std::floor(next()));
    } else {
      static_cast<float*>(x.mutable_data_ptr())[i] = static_cast<float>(next());
    }
  }
  return x;
}

Tensor channels_last(const Tensor& x) {
  return torch::stable::contiguous(x, torch::headeronly::MemoryFormat::ChannelsLast);
}

}  // namespace driver
