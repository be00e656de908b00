namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::NoVariant {
  struct Arguments {
    flashinfer::Span<float> bias;
  };

  static constexpr bool kTransformsLogits = true;

  static __device__ __forceinline__ float transform(float logit, const flashinfer::LogitsContext& at, const Arguments& a) {
    return logit + a.bias[csharp::add(at.head * 32, bucket(at.qo_position - at.kv_position))];
  }

  static __device__ __forceinline__ int bucket(int distance) {
    if (distance < 16) {
      return csharp::max(distance, 0);
    }
    const float far = csharp::divide(csharp::log(float(distance) / 16.f), csharp::log(8.f)) * 16.f;
    return csharp::min(csharp::add(16, csharp::to_int(far)), 31);
  }
};
