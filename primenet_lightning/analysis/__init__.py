"""What a trained network costs, sees and knows."""
