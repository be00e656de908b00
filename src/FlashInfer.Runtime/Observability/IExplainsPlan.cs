namespace FlashInfer.Observability;

/// <summary>A wrapper whose plan can be logged.</summary>
internal interface IExplainsPlan
{
    /// <summary>The plan in words.</summary>
    string Explain();
}
