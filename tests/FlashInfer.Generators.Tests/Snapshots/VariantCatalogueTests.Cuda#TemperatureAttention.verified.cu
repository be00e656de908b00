namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::NoVariant {
  struct Arguments {
    flashinfer::Span<float> sharpness;
    float growth;
  };

  static constexpr bool kTransformsLogits = true;

  static __device__ __forceinline__ float transform(float logit, const flashinfer::LogitsContext& at, const Arguments& a) {
    const float scale = 1.f + a.growth * csharp::log(floorf(float(at.qo_position + 1) / 8192.f) + 1.f);
    return logit * scale * a.sharpness[at.head];
  }
};
